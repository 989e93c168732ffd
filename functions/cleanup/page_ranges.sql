-- The SQL of page ranges.

-- name: table_pages
-- How many pages a table has now.
SELECT pg_relation_size(CAST(:table AS regclass)) / CAST(current_setting('block_size') AS int) AS pages;
