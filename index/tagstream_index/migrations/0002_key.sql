-- For searches of keys by prefix, in any bucket.
create index image_key on image (key text_pattern_ops) where not gone;
