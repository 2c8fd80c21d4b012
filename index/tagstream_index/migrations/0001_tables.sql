-- The tables of the index. {language} is PostgreSQL's text search configuration, chosen by `tagstream index init`.

-- What holds for the whole index: one row.
create table state (
    one boolean primary key default true check (one),
    language regconfig not null default '{language}',
    last_error text,
    last_error_at timestamptz
);
insert into state default values;

-- Up to where each partition of the enriched topic is in the tables; written with the rows, in one transaction.
create table progress (
    topic text not null,
    partition integer not null,
    topic_id text not null,
    next_offset bigint not null,
    record_at timestamptz,
    written_at timestamptz not null default now(),
    primary key (topic, partition)
);

-- One row a subject: its newest outcome. Of the outcomes of one subject the greatest (version, published, produced_at,
-- gone) is the newest (schemas/version.py); both times are microseconds since 1970. A row of a removed image is gone:
-- it has nothing from `version_id` on.
create table image (
    subject text collate "C" primary key,
    bucket text not null,
    key text not null,
    version bigint not null,
    published boolean not null,
    produced_at bigint not null,
    gone boolean not null,
    changed_at timestamptz not null default now(),
    version_id text,
    etag text,
    sha256 text,
    last_modified timestamptz,
    format text,
    width bigint,
    height bigint,
    bytes bigint,
    tags jsonb,
    names text[],
    scores real[],
    caption text,
    corrections jsonb,
    provenance jsonb,
    words tsvector generated always as (
        case when not gone then
            setweight(to_tsvector('{language}', jsonb_path_query_array(tags, '$[*].name')), 'A')
            || setweight(to_tsvector('{language}', coalesce(caption, '')), 'B')
            || setweight(to_tsvector('{language}', regexp_replace(key, '[^[:alnum:]]+', ' ', 'g')), 'C')
            || setweight(to_tsvector('simple', jsonb_path_query_array(tags, '$[*].translations.*')), 'D')
        end
    ) stored
) with (toast_tuple_target = 4080); -- to compress each row takes longer than all else
create index image_words on image using gin (words);
create index image_names on image using gin (names);
create index image_last_modified on image (last_modified desc) where not gone;
create index image_gone on image (changed_at) where gone;

-- Retracted object versions, by the sha256 of their document_id: the outcome of such a version may come later.
create table gone_version (
    document bytea primary key,
    version bigint not null,
    published boolean not null,
    produced_at bigint not null,
    changed_at timestamptz not null default now()
);
create index gone_version_changed_at on gone_version (changed_at);

-- The last outcomes of a subject as they were published, the newest first, and the newest one's scores header.
create table history (
    subject text collate "C" primary key,
    outcomes json[] not null,
    scores bytea
) with (toast_tuple_target = 4080);

-- The spaces of embeddings. The vectors of space N are in embedding_N (subject, model, vector).
create table space (
    number smallint generated always as identity primary key,
    name text not null,
    dimensions integer not null,
    unique (name, dimensions)
);
