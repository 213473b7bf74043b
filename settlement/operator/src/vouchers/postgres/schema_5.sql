-- How often wishes to close were stored; one row. It rises in the transaction that stores them, so that who settles hears
-- of what another process was asked.
CREATE TABLE settle_wishes (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    stored bigint NOT NULL
);
INSERT INTO settle_wishes (stored) VALUES (0);
