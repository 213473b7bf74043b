-- What this database belongs to; one row, written at the first start.
CREATE TABLE settle_deployment (
    single       boolean PRIMARY KEY DEFAULT true CHECK (single),
    genesis_hash bytea NOT NULL CHECK (octet_length(genesis_hash) = 32),
    program      bytea NOT NULL CHECK (octet_length(program) = 32),
    operator     bytea NOT NULL CHECK (octet_length(operator) = 32)
);
