-- Facts of the picture. `taken_local` is the time as the picture has it, without a zone; `taken_offset`, the minutes from
-- UTC, is null where the file does not say. `dated` orders by day: a time later than a day after the object was stored
-- comes of a wrong clock, and counts as none.
alter table image
    add column taken_local timestamp,
    add column taken_offset smallint,
    add column orientation smallint,
    add column phash bigint,
    add column thumbhash bytea,
    add column latitude float8,
    add column longitude float8,
    add column dated timestamp generated always as (
        case when taken_local <= last_modified at time zone 'UTC' + interval '1 day' then taken_local
            else last_modified at time zone 'UTC' end
    ) stored;
create index image_dated on image (dated desc) where not gone;
create index image_sha256 on image (sha256) where not gone;
-- Of two hashes that differ in at most 6 of 64 bits, one of the four bands of 16 bits differs in at most one. The whole
-- hash beside its band: an index alone finds the near ones.
create index image_band_0 on image ((phash & 65535), phash) where phash is not null;
create index image_band_1 on image ((phash >> 16 & 65535), phash) where phash is not null;
create index image_band_2 on image ((phash >> 32 & 65535), phash) where phash is not null;
create index image_band_3 on image ((phash >> 48 & 65535), phash) where phash is not null;
