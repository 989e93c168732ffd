-- What must be known before rights are given.

-- name: owners
-- (a part) The tables asked for, each with its owner where it is there; looked up in the catalogue, so that no right in a
-- schema is needed.
unnest(CAST(:tables AS text[])) WITH ORDINALITY AS asked (name, place)
LEFT JOIN (
    SELECT relowner, CASE nspname WHEN 'public' THEN '' ELSE nspname || '.' END || relname AS found
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p')
) AS known ON found = name

-- name: tables
-- Whether each table is there, and whether this session may act as its owner.
SELECT name, relowner IS NOT NULL AS there, pg_has_role(relowner, 'USAGE') AS mine
FROM
    -- insert: owners
ORDER BY place;

-- name: login
-- Whether a login is a superuser, or may act as the owner of one of the tables. No row if there is no such login.
SELECT rolsuper OR EXISTS (
    SELECT FROM
    -- insert: owners
    WHERE pg_has_role(pg_roles.oid, relowner, 'MEMBER')) AS powerful
FROM pg_roles
WHERE rolname = :login;

-- name: lacking
-- The tables on which a login has not a right that it should have, each right with its columns, or none for the whole.
SELECT DISTINCT asked.table_name
FROM unnest(
    CAST(:logins AS text[]), CAST(:tables AS text[]), CAST(:privileges AS text[]), CAST(:columns AS text[]))
    AS asked (login, table_name, privilege, columns)
WHERE CASE asked.columns
    WHEN '' THEN NOT has_table_privilege(asked.login, asked.table_name, asked.privilege)
    ELSE EXISTS (
        SELECT FROM unnest(string_to_array(asked.columns, ',')) AS one (name)
        WHERE NOT has_column_privilege(asked.login, asked.table_name, one.name, asked.privilege))
    END
ORDER BY 1;
