-- Words of the tags' parents: a beagle is found by "dog".
alter table image drop column words;
alter table image add column words tsvector generated always as (
    case when not gone then
        setweight(to_tsvector('{language}', jsonb_path_query_array(tags, '$[*].name')), 'A')
        || setweight(to_tsvector('{language}', coalesce(caption, '')), 'B')
        || setweight(to_tsvector('{language}', regexp_replace(key, '[^[:alnum:]]+', ' ', 'g')), 'C')
        || setweight(to_tsvector('simple', jsonb_path_query_array(tags, '$[*].translations.*')), 'D')
        || setweight(to_tsvector('{language}', jsonb_path_query_array(tags, '$[*].parents[*]')), 'D')
    end
) stored;
create index image_words on image using gin (words);
