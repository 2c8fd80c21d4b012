-- The wider names of a tag, the nearest first: hound, dog and animal of a beagle. `told`: an outcome has this tag. Else the
-- row follows from another one: dog and animal of a hound.
create table wider (
    name text collate "C" primary key,
    parents text[] not null,
    told boolean not null
);
create index wider_parents on wider using gin (parents);
with tags as materialized (
    select distinct tag->>'name' as name, tag->'parents' as parents from image, jsonb_array_elements(tags) tag
    where not gone and jsonb_typeof(tag->'parents') = 'array'
)
insert into wider
select distinct on (name) name, array(select jsonb_array_elements_text(parents)), true from tags
where length(name) <= 100 and length(parents::text) <= 300 order by name limit 10000;
insert into wider
select distinct on (parent) parent, parents[place + 1:], false
from wider, unnest(parents) with ordinality as above (parent, place)
order by parent, cardinality(parents) - place desc
on conflict do nothing;
