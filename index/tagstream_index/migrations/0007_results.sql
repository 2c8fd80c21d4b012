-- Results of added kinds as outcomes have them, and their words: those of each kind follow its name, which stands between
-- two U+001E. The weight D is theirs alone; what stands behind a "<" is no tag of HTML, which the parser would pass over.
-- `state.results`: the names of all kinds that came, for searches.
alter table state add column results text[] not null default '{}';
alter table image
    drop column words,
    add column results jsonb,
    add column result_words text;
alter table image add column words tsvector generated always as (
    case when not gone then
        setweight(to_tsvector('{language}', jsonb_path_query_array(tags, '$[*].name')), 'A')
        || setweight(to_tsvector('{language}', coalesce(caption, '')), 'B')
        || setweight(to_tsvector('{language}', regexp_replace(key, '[^[:alnum:]]+', ' ', 'g')), 'C')
        || setweight(to_tsvector('simple', jsonb_path_query_array(tags, '$[*].translations.*')), 'C')
        || setweight(to_tsvector('{language}', jsonb_path_query_array(tags, '$[*].parents[*]')), 'C')
        || setweight(to_tsvector('{language}',
            regexp_replace(coalesce(result_words, ''), '\u001e[a-z-]+\u001e|<', ' ', 'g')), 'D')
    end
) stored;
create index image_words on image using gin (words);
