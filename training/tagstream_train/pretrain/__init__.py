"""`train pretrain`: Tag2Text, RAM and RAM++ from captions and tags."""
