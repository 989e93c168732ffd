-- What watches the jobs from below: triggers that write down each change and find late ones. Made once, in the template.

CREATE SCHEMA chaos;

-- Every change to rows that somebody would miss; `run` is the run whose transaction it was, NULL for the service's own.
CREATE TABLE chaos.changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run bigint, relation text NOT NULL, operation text NOT NULL, before jsonb, after jsonb
);

-- Transactions that committed although another run had taken over.
CREATE TABLE chaos.late (run bigint NOT NULL, relation text NOT NULL);

CREATE FUNCTION chaos.run() RETURNS bigint LANGUAGE sql AS $$
    SELECT CAST(nullif(current_setting('chaos.run', true), '') AS bigint)
$$;

CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.changes (run, relation, operation, before, after)
    VALUES (
        chaos.run(), TG_TABLE_NAME, TG_OP,
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
    RETURN NULL;
END $$;

-- Deferred, so that it looks when everything else of the transaction is done: at the commit.
CREATE FUNCTION chaos.look_at_the_fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF chaos.run() IS NOT NULL AND NOT EXISTS (SELECT 1 FROM maintenance.fences WHERE run_id = chaos.run()) THEN
        INSERT INTO chaos.late VALUES (chaos.run(), TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY[
        'billing_accounts', 'usage_counters', 'usage_events', 'extraction_jobs', 'job_runs', 'source_files']
    LOOP
        EXECUTE format(
            'CREATE TRIGGER chaos_note AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION chaos.note()',
            relation);
    END LOOP;
    FOREACH relation IN ARRAY ARRAY[
        'billing_accounts', 'usage_counters', 'usage_events', 'extraction_jobs', 'job_runs', 'source_files',
        'maintenance.meter_sends', 'maintenance.object_deletions', 'maintenance.erasures', 'maintenance.cursors']
    LOOP
        EXECUTE format(
            'CREATE CONSTRAINT TRIGGER chaos_fence AFTER INSERT OR UPDATE OR DELETE ON %s DEFERRABLE INITIALLY DEFERRED '
            'FOR EACH ROW EXECUTE FUNCTION chaos.look_at_the_fence()',
            relation);
    END LOOP;
END $$;
