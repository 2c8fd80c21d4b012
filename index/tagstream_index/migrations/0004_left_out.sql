-- Records that were passed over, the newest of each partition: where they are and why, and nothing of what they say.
create table left_out (
    topic text not null,
    partition integer not null,
    record_offset bigint not null,
    reason text not null,
    at timestamptz not null default now(),
    primary key (topic, partition, record_offset)
);
-- A space that no image has any more makes room for another, whose number is new.
alter table space alter column number type integer;
alter table space add column made_at timestamptz not null default now();
