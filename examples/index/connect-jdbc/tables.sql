-- What Kafka Connect writes: one row for each record key, its newest outcome as text.
create table outcome (
    document_id text collate "C" primary key,
    doc text not null,
    subject text collate "C" generated always as (doc::jsonb ->> 'subject') stored,
    version_id text generated always as (coalesce(doc::jsonb #>> '{source,version_id}', 'null')) stored,
    version bigint generated always as (coalesce((doc::jsonb ->> 'version')::bigint, 0)) stored,
    produced_at text collate "C" generated always as (doc::jsonb ->> 'produced_at') stored,
    gone boolean generated always as (doc::jsonb ->> 'schema' = 'image-retraction/1') stored
);
create index outcome_gone_version on outcome (subject, version_id) where gone;
create index outcome_tags on outcome using gin ((doc::jsonb -> 'tags') jsonb_path_ops);

-- Of the outcomes of one key the greatest (version, produced_at) is the newest; on a tie the retraction.
-- A tombstone, where the connector lets it through, deletes a retraction. Here generated columns of `new` are still empty.
create function keep_newest() returns trigger language plpgsql as $$
declare
    said jsonb := new.doc;
begin
    if said is null then
        delete from outcome where document_id = new.document_id and gone;
    elsif tg_op = 'INSERT' or
        (coalesce((said ->> 'version')::bigint, 0), said ->> 'produced_at', said ->> 'schema' = 'image-retraction/1')
        > (old.version, old.produced_at, old.gone)
    then
        return new;
    end if;
    return null;
end $$;
create trigger keep_newest before insert or update on outcome for each row execute function keep_newest();

-- What searches read. A retraction of one object version has a row of its own, and hides the image of that version.
create view image as
select subject, doc::jsonb as doc from outcome as shown
where not gone and not exists (
    select from outcome as removed
    where removed.gone and removed.subject = shown.subject and removed.version_id = shown.version_id
        and (removed.version, removed.produced_at) >= (shown.version, shown.produced_at)
);
