CREATE SCHEMA old;
CREATE TABLE old.embedding_1 (
    subject text NOT NULL COLLATE pg_catalog."C",
    model text NOT NULL,
    vector public.halfvec(3) NOT NULL
);
CREATE TABLE old.gone_version (
    document bytea NOT NULL,
    version bigint NOT NULL,
    published boolean NOT NULL,
    produced_at bigint NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE old.history (
    subject text NOT NULL COLLATE pg_catalog."C",
    outcomes json[] NOT NULL,
    scores bytea
);
CREATE TABLE old.image (
    subject text NOT NULL COLLATE pg_catalog."C",
    bucket text NOT NULL,
    key text NOT NULL,
    version bigint NOT NULL,
    published boolean NOT NULL,
    produced_at bigint NOT NULL,
    gone boolean NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    version_id text,
    etag text,
    sha256 text,
    last_modified timestamp with time zone,
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
    words tsvector GENERATED ALWAYS AS (
CASE
    WHEN (NOT gone) THEN (((setweight(to_tsvector('english'::regconfig, jsonb_path_query_array(tags, '$[*]."name"'::jsonpath)), 'A'::"char") || setweight(to_tsvector('english'::regconfig, COALESCE(caption, ''::text)), 'B'::"char")) || setweight(to_tsvector('english'::regconfig, regexp_replace(key, '[^[:alnum:]]+'::text, ' '::text, 'g'::text)), 'C'::"char")) || setweight(to_tsvector('simple'::regconfig, jsonb_path_query_array(tags, '$[*]."translations".*'::jsonpath)), 'D'::"char"))
    ELSE NULL::tsvector
END) STORED
);
CREATE TABLE old.migration (
    number integer NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE old.progress (
    topic text NOT NULL,
    partition integer NOT NULL,
    topic_id text NOT NULL,
    next_offset bigint NOT NULL,
    record_at timestamp with time zone,
    written_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE old.space (
    number smallint NOT NULL,
    name text NOT NULL,
    dimensions integer NOT NULL
);
ALTER TABLE old.space ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME old.space_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE old.state (
    one boolean DEFAULT true NOT NULL,
    language regconfig DEFAULT 'english'::regconfig NOT NULL,
    last_error text,
    last_error_at timestamp with time zone,
    CONSTRAINT state_one_check CHECK (one)
);
INSERT INTO old.embedding_1 (subject, model, vector) VALUES ('photos/red.png', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', '[0.99853516,0.03994751,0.03994751]');
INSERT INTO old.gone_version (document, version, published, produced_at, changed_at) VALUES ('\xcf0a03ebd93c9a42a91a15f2cb08909ec1390e64d455882434921c7e08b4ff47', 1767323045000000, false, 1796098812032000, '2026-12-01 04:24:01.845463+00');
INSERT INTO old.history (subject, outcomes, scores) VALUES ('photos/blue.png', '{"{\"schema\":\"enriched-image/1\",\"id\":\"afe75c96faae7c240ba1bdcd5a97005c54b0909f36f9ca76a8bff8327640ab89\",\"subject\":\"photos/blue.png\",\"status\":\"complete\",\"reason\":null,\"event\":{\"id\":\"0A\",\"dialect\":\"s3\",\"time\":\"2026-01-02T03:04:05Z\",\"topic\":\"images\",\"partition\":0,\"offset\":1,\"index\":0},\"source\":{\"bucket\":\"photos\",\"key\":\"blue.png\",\"version_id\":\"v2\",\"etag\":\"8751d94c2b726cd2daf102796fe6872b\",\"sequencer\":\"0A\",\"last_modified\":\"2026-12-01T04:20:11Z\",\"sha256\":\"4b16ea4808014d6c1378361d7cf465ab4c82ffa9893ec0cde1c2ea13c22e31d3\"},\"image\":{\"format\":\"png\",\"width\":16,\"height\":16,\"bytes\":82},\"tags\":[{\"name\":\"blue\",\"score\":0.980392,\"label_id\":2}],\"caption\":{\"text\":\"saw blue\",\"score\":-0.5,\"method\":\"greedy\",\"guided_by\":[\"blue\"]},\"models\":{\"tagger\":{\"name\":\"colours\",\"digest\":\"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\",\"precision\":\"fp32\",\"random_weights\":false},\"captioner\":{\"name\":\"echo\",\"digest\":\"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\",\"precision\":\"fp32\",\"random_weights\":false}},\"thresholds\":{\"profile\":\"default\",\"digest\":\"fbfe4ca61ec29968\"},\"timings_ms\":{\"lookup\":7.552,\"wait-fetch\":0.147,\"fetch\":0.971,\"wait-equal\":0.02,\"wait-inspect\":0.048,\"inspect\":2.196,\"wait-decode\":0.03,\"decode\":2.118,\"wait-device\":0.983,\"annotate\":1.314},\"produced_at\":\"2026-12-01T04:20:12.047Z\",\"cache\":{\"source\":null,\"tags\":\"miss\",\"caption\":\"miss\"}}"}', '\x01cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc00000000000000000ad7233c0466703332000000000000403f010000000000803e');
INSERT INTO old.history (subject, outcomes, scores) VALUES ('photos/corrected.png', '{"{\"schema\":\"enriched-image/1\",\"id\":\"aec7f29910fbae466545652d0e21a268854c4d7a1f606f3ab66b686ecce0bee2\",\"subject\":\"photos/corrected.png\",\"status\":\"complete\",\"reason\":null,\"event\":{\"id\":\"id-corrected.png\",\"dialect\":\"own\",\"time\":null,\"topic\":\"images\",\"partition\":0,\"offset\":2,\"index\":0},\"source\":{\"bucket\":\"photos\",\"key\":\"corrected.png\",\"version_id\":\"v3\",\"etag\":\"2b5993e548280d8543d03bd9b153a0a7\",\"sequencer\":null,\"last_modified\":\"2026-12-01T04:20:11Z\",\"sha256\":\"1b80850bd556524254ba09c6e165c8248a07bc5c8df569894708f56536ee26f0\"},\"image\":{\"format\":\"png\",\"width\":16,\"height\":16,\"bytes\":82},\"tags\":[{\"name\":\"green\",\"score\":1.0,\"label_id\":1,\"source\":\"person\"}],\"caption\":{\"text\":\"saw green | sunset\",\"score\":-0.5,\"method\":\"greedy\",\"guided_by\":[\"green\",\"sunset\"]},\"corrections\":{\"added\":[\"green\",\"sunset\"],\"removed\":[\"red\"]},\"models\":{\"tagger\":{\"name\":\"colours\",\"digest\":\"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\",\"precision\":\"fp32\",\"random_weights\":false},\"captioner\":{\"name\":\"echo\",\"digest\":\"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\",\"precision\":\"fp32\",\"random_weights\":false}},\"thresholds\":{\"profile\":\"default\",\"digest\":\"fbfe4ca61ec29968\"},\"timings_ms\":{\"lookup\":8.577,\"wait-fetch\":0.053,\"fetch\":1.567,\"wait-equal\":0.006,\"wait-inspect\":0.021,\"inspect\":0.664,\"wait-decode\":0.024,\"decode\":2.336,\"wait-device\":0.715,\"annotate\":1.314},\"produced_at\":\"2026-12-01T04:20:12.047Z\",\"cache\":{\"source\":\"miss\",\"tags\":\"miss\",\"caption\":\"miss\"}}"}', '\x01cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc00000000000000000ad7233c0466703332000000000000403f010000000000803e');
INSERT INTO old.history (subject, outcomes, scores) VALUES ('photos/partial.png', '{"{\"schema\":\"enriched-image/1\",\"id\":\"6a1bc8474bec40591b4aab2133e3db681b87a3823d2016b21f4448131bab42ac\",\"subject\":\"photos/partial.png\",\"status\":\"partial\",\"reason\":\"caption-failed\",\"event\":{\"id\":\"id-partial.png\",\"dialect\":\"own\",\"time\":null,\"topic\":\"images\",\"partition\":0,\"offset\":8,\"index\":0},\"source\":{\"bucket\":\"photos\",\"key\":\"partial.png\",\"version_id\":\"v6\",\"etag\":\"899e0a99bae54186ab62dcf9e85196e8\",\"sequencer\":null,\"last_modified\":\"2026-12-01T04:20:11Z\",\"sha256\":\"93e16acde1eff803efc37772f4db878fecd6aaa7078bea7ac0dc95cf87065713\"},\"image\":{\"format\":\"png\",\"width\":16,\"height\":16,\"bytes\":82},\"tags\":[{\"name\":\"red\",\"score\":0.784314,\"label_id\":0},{\"name\":\"green\",\"score\":0.784314,\"label_id\":1}],\"caption\":null,\"models\":{\"tagger\":{\"name\":\"colours\",\"digest\":\"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\",\"precision\":\"fp32\",\"random_weights\":false},\"captioner\":{\"name\":\"echo\",\"digest\":\"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\",\"precision\":\"fp32\",\"random_weights\":false}},\"thresholds\":{\"profile\":\"default\",\"digest\":\"fbfe4ca61ec29968\"},\"timings_ms\":{\"lookup\":4.609,\"wait-fetch\":0.096,\"fetch\":0.711,\"wait-equal\":0.018,\"wait-inspect\":0.042,\"inspect\":0.729,\"wait-decode\":0.031,\"decode\":0.432,\"wait-device\":0.067,\"annotate\":0.82},\"produced_at\":\"2026-12-01T04:20:12.260Z\",\"cache\":{\"source\":\"miss\",\"tags\":\"miss\",\"caption\":null}}"}', '\x01cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc00000000000000000ad7233c0466703332000000000000403f010000000000803e');
INSERT INTO old.history (subject, outcomes, scores) VALUES ('photos/red.png', '{"{\"schema\":\"enriched-image/1\",\"id\":\"e54c38ed2f1506d9c2d0851ae42a6b3d1510ab08fe9133dbe4bf535e15a57b76\",\"subject\":\"photos/red.png\",\"status\":\"complete\",\"reason\":null,\"event\":{\"id\":\"id-red.png\",\"dialect\":\"own\",\"time\":null,\"topic\":\"images\",\"partition\":0,\"offset\":0,\"index\":0},\"source\":{\"bucket\":\"photos\",\"key\":\"red.png\",\"version_id\":\"v1\",\"etag\":\"81931cebd6b2ec7a95198944eb5a8116\",\"sequencer\":null,\"last_modified\":\"2026-12-01T04:20:11Z\",\"sha256\":\"3012b8ccc4d5380b53e7cccc509cfaa3f7cf898241f67d8cf0614bd20f5ccf91\"},\"image\":{\"format\":\"png\",\"width\":16,\"height\":16,\"bytes\":82},\"tags\":[{\"name\":\"red\",\"score\":0.980392,\"label_id\":0}],\"caption\":{\"text\":\"saw red\",\"score\":-0.5,\"method\":\"greedy\",\"guided_by\":[\"red\"]},\"embedding\":{\"space\":\"colours\",\"dimensions\":3,\"dtype\":\"float16\",\"data\":\"/TsdKR0p\",\"normalised\":true,\"model\":\"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\"},\"models\":{\"tagger\":{\"name\":\"colours\",\"digest\":\"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\",\"precision\":\"fp32\",\"random_weights\":false},\"captioner\":{\"name\":\"echo\",\"digest\":\"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\",\"precision\":\"fp32\",\"random_weights\":false}},\"thresholds\":{\"profile\":\"default\",\"digest\":\"fbfe4ca61ec29968\"},\"timings_ms\":{\"lookup\":5.688,\"wait-fetch\":0.231,\"fetch\":0.775,\"wait-equal\":0.026,\"wait-inspect\":0.054,\"inspect\":1.302,\"wait-decode\":0.036,\"decode\":1.861,\"wait-device\":0.431,\"annotate\":1.409},\"produced_at\":\"2026-12-01T04:20:12.043Z\",\"cache\":{\"source\":\"miss\",\"tags\":\"miss\",\"caption\":\"miss\",\"embedding\":\"miss\"}}"}', '\x01cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc00000000000000000ad7233c0466703332000000000000403f010000000000803e');
INSERT INTO old.image (subject, bucket, key, version, published, produced_at, gone, changed_at, version_id, etag, sha256, last_modified, format, width, height, bytes, tags, names, scores, caption, corrections, provenance) VALUES ('photos/blue.png', 'photos', 'blue.png', 1796098811000000, false, 1796098812047000, false, '2026-12-01 04:24:01.845463+00', 'v2', '8751d94c2b726cd2daf102796fe6872b', '4b16ea4808014d6c1378361d7cf465ab4c82ffa9893ec0cde1c2ea13c22e31d3', '2026-12-01 04:20:11+00', 'png', 16, 16, 82, '[{"name": "blue", "score": 0.980392, "label_id": 2}]', '{blue}', '{0.980392}', 'saw blue', NULL, '{"id": "afe75c96faae7c240ba1bdcd5a97005c54b0909f36f9ca76a8bff8327640ab89", "event": {"id": "0A", "time": "2026-01-02T03:04:05Z", "index": 0, "topic": "images", "offset": 1, "dialect": "s3", "partition": 0}, "models": {"tagger": {"name": "colours", "digest": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", "precision": "fp32", "random_weights": false}, "captioner": {"name": "echo", "digest": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "precision": "fp32", "random_weights": false}}, "status": "complete", "caption": {"score": -0.5, "method": "greedy", "guided_by": ["blue"]}, "thresholds": {"digest": "fbfe4ca61ec29968", "profile": "default"}}');
INSERT INTO old.image (subject, bucket, key, version, published, produced_at, gone, changed_at, version_id, etag, sha256, last_modified, format, width, height, bytes, tags, names, scores, caption, corrections, provenance) VALUES ('photos/corrected.png', 'photos', 'corrected.png', 1796098811000000, false, 1796098812047000, false, '2026-12-01 04:24:01.845463+00', 'v3', '2b5993e548280d8543d03bd9b153a0a7', '1b80850bd556524254ba09c6e165c8248a07bc5c8df569894708f56536ee26f0', '2026-12-01 04:20:11+00', 'png', 16, 16, 82, '[{"name": "green", "score": 1.0, "source": "person", "label_id": 1}]', '{green}', '{1}', 'saw green | sunset', '{"added": ["green", "sunset"], "removed": ["red"]}', '{"id": "aec7f29910fbae466545652d0e21a268854c4d7a1f606f3ab66b686ecce0bee2", "event": {"id": "id-corrected.png", "time": null, "index": 0, "topic": "images", "offset": 2, "dialect": "own", "partition": 0}, "models": {"tagger": {"name": "colours", "digest": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", "precision": "fp32", "random_weights": false}, "captioner": {"name": "echo", "digest": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "precision": "fp32", "random_weights": false}}, "status": "complete", "caption": {"score": -0.5, "method": "greedy", "guided_by": ["green", "sunset"]}, "thresholds": {"digest": "fbfe4ca61ec29968", "profile": "default"}}');
INSERT INTO old.image (subject, bucket, key, version, published, produced_at, gone, changed_at, version_id, etag, sha256, last_modified, format, width, height, bytes, tags, names, scores, caption, corrections, provenance) VALUES ('photos/partial.png', 'photos', 'partial.png', 1796098811000000, false, 1796098812260000, false, '2026-12-01 04:24:01.845463+00', 'v6', '899e0a99bae54186ab62dcf9e85196e8', '93e16acde1eff803efc37772f4db878fecd6aaa7078bea7ac0dc95cf87065713', '2026-12-01 04:20:11+00', 'png', 16, 16, 82, '[{"name": "red", "score": 0.784314, "label_id": 0}, {"name": "green", "score": 0.784314, "label_id": 1}]', '{red,green}', '{0.784314,0.784314}', NULL, NULL, '{"id": "6a1bc8474bec40591b4aab2133e3db681b87a3823d2016b21f4448131bab42ac", "event": {"id": "id-partial.png", "time": null, "index": 0, "topic": "images", "offset": 8, "dialect": "own", "partition": 0}, "models": {"tagger": {"name": "colours", "digest": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", "precision": "fp32", "random_weights": false}, "captioner": {"name": "echo", "digest": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "precision": "fp32", "random_weights": false}}, "reason": "caption-failed", "status": "partial", "thresholds": {"digest": "fbfe4ca61ec29968", "profile": "default"}}');
INSERT INTO old.image (subject, bucket, key, version, published, produced_at, gone, changed_at, version_id, etag, sha256, last_modified, format, width, height, bytes, tags, names, scores, caption, corrections, provenance) VALUES ('photos/red.png', 'photos', 'red.png', 1796098811000000, false, 1796098812043000, false, '2026-12-01 04:24:01.845463+00', 'v1', '81931cebd6b2ec7a95198944eb5a8116', '3012b8ccc4d5380b53e7cccc509cfaa3f7cf898241f67d8cf0614bd20f5ccf91', '2026-12-01 04:20:11+00', 'png', 16, 16, 82, '[{"name": "red", "score": 0.980392, "label_id": 0}]', '{red}', '{0.980392}', 'saw red', NULL, '{"id": "e54c38ed2f1506d9c2d0851ae42a6b3d1510ab08fe9133dbe4bf535e15a57b76", "event": {"id": "id-red.png", "time": null, "index": 0, "topic": "images", "offset": 0, "dialect": "own", "partition": 0}, "models": {"tagger": {"name": "colours", "digest": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", "precision": "fp32", "random_weights": false}, "captioner": {"name": "echo", "digest": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "precision": "fp32", "random_weights": false}}, "status": "complete", "caption": {"score": -0.5, "method": "greedy", "guided_by": ["red"]}, "thresholds": {"digest": "fbfe4ca61ec29968", "profile": "default"}}');
INSERT INTO old.image (subject, bucket, key, version, published, produced_at, gone, changed_at, version_id, etag, sha256, last_modified, format, width, height, bytes, tags, names, scores, caption, corrections, provenance) VALUES ('photos/removed.png', 'photos', 'removed.png', 1767323045000000, false, 1796098812032000, true, '2026-12-01 04:24:01.845463+00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO old.migration (number, at) VALUES (1, '2026-12-01 04:24:01.546395+00');
INSERT INTO old.progress (topic, partition, topic_id, next_offset, record_at, written_at) VALUES ('images.enriched', 0, 'unknown', 6, '2026-12-01 04:24:01.808616+00', '2026-12-01 04:24:01.808616+00');
INSERT INTO old.space (number, name, dimensions) OVERRIDING SYSTEM VALUE VALUES (1, 'colours', 3);
INSERT INTO old.state (one, language, last_error, last_error_at) VALUES (true, 'english', NULL, NULL);
SELECT pg_catalog.setval('old.space_number_seq', 1, true);
ALTER TABLE ONLY old.embedding_1
    ADD CONSTRAINT embedding_1_pkey PRIMARY KEY (subject);
ALTER TABLE ONLY old.gone_version
    ADD CONSTRAINT gone_version_pkey PRIMARY KEY (document);
ALTER TABLE ONLY old.history
    ADD CONSTRAINT history_pkey PRIMARY KEY (subject);
ALTER TABLE ONLY old.image
    ADD CONSTRAINT image_pkey PRIMARY KEY (subject);
ALTER TABLE ONLY old.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (number);
ALTER TABLE ONLY old.progress
    ADD CONSTRAINT progress_pkey PRIMARY KEY (topic, partition);
ALTER TABLE ONLY old.space
    ADD CONSTRAINT space_name_dimensions_key UNIQUE (name, dimensions);
ALTER TABLE ONLY old.space
    ADD CONSTRAINT space_pkey PRIMARY KEY (number);
ALTER TABLE ONLY old.state
    ADD CONSTRAINT state_pkey PRIMARY KEY (one);
CREATE INDEX embedding_1_vector_idx ON old.embedding_1 USING hnsw (vector public.halfvec_cosine_ops);
CREATE INDEX gone_version_changed_at ON old.gone_version USING btree (changed_at);
CREATE INDEX image_gone ON old.image USING btree (changed_at) WHERE gone;
CREATE INDEX image_last_modified ON old.image USING btree (last_modified DESC) WHERE (NOT gone);
CREATE INDEX image_names ON old.image USING gin (names);
CREATE INDEX image_words ON old.image USING gin (words);
