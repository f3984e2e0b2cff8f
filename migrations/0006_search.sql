-- Search finds words in any case and any script, parts of file names and
-- paths, and flags of commands. Until now a database with the locale C, as the
-- private Postgres had, knew no lower case but that of a to z, so that ÄRZTE
-- wasn't found by ärzte; main.go was one word; and --all was none.
--
-- Each table gets a new vector with an index of its own. The old one is kept,
-- so that an older server still runs beside this one, but no longer computed:
-- such a server finds only what was there before, and without an index. The
-- tables are written anew for it: 20,000 specs of 2 KB take 15 s of one core.

-- English without its list of words that aren't indexed: some of them are
-- flags (-a, -i, --all, --no). The program leaves them out of what it asks for.
CREATE TEXT SEARCH DICTIONARY tachikoma_stem (TEMPLATE = snowball, LANGUAGE = english);
CREATE TEXT SEARCH CONFIGURATION tachikoma (COPY = english);
ALTER TEXT SEARCH CONFIGURATION tachikoma ALTER MAPPING REPLACE english_stem WITH tachikoma_stem;

-- folded is a text in lower case, by the first collation there is that knows
-- all letters: of PostgreSQL itself from version 17 on, of the C library, or of
-- ICU. Where there is none, it is the database's own.
DO $$
DECLARE
    folding text;
BEGIN
    SELECT format('COLLATE %I.%I', n.nspname, c.collname) INTO folding
    FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
    WHERE n.nspname = 'pg_catalog' AND c.collencoding IN (-1, pg_char_to_encoding('UTF8'))
      AND c.collname IN ('pg_c_utf8', 'C.utf8', 'C.UTF-8', 'und-x-icu', 'en_US.utf8', 'en_US.UTF-8')
    ORDER BY array_position(ARRAY['pg_c_utf8', 'C.utf8', 'C.UTF-8', 'und-x-icu'], c.collname::text) LIMIT 1;
    EXECUTE 'CREATE FUNCTION folded(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
             RETURN lower($1 ' || coalesce(folding, '') || ')';
END $$;

-- words are what a text is found by. The characters that separate them are also
-- those of the program (see separatesWords): PostgreSQL itself would take main.go
-- for a host, -5 for a number, <T> for a tag, and in the locale C a dash for a
-- letter. (One pattern with characters beyond ASCII takes ten times as long.)
CREATE FUNCTION words(text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN to_tsvector('tachikoma', regexp_replace(
    replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(folded($1),
    '–', ' '), '—', ' '), '…', ' '), '„', ' '), '“', ' '), '”', ' '), '«', ' '), '»', ' '), '‘', ' '), '’', ' '), chr(160), ' '),
    '[-./<>&+~@:#]', ' ', 'g'));

DROP INDEX missions_search, specs_search; -- or the rewrite below would make them anew
SET LOCAL maintenance_work_mem = '256MB';
ALTER TABLE missions
    ALTER COLUMN search DROP EXPRESSION,
    ADD COLUMN words tsvector GENERATED ALWAYS AS (
        setweight(words(name), 'A') || setweight(words(description), 'B')) STORED;
ALTER TABLE specs
    ALTER COLUMN search DROP EXPRESSION,
    ADD COLUMN words tsvector GENERATED ALWAYS AS (
        setweight(words(number || ' ' || key || ' ' || title), 'A') ||
        setweight(words(phase), 'B') ||
        setweight(words(left(body, 65536)), 'D')) STORED;

CREATE INDEX missions_words ON missions USING gin (words);
CREATE INDEX specs_words    ON specs    USING gin (words);
