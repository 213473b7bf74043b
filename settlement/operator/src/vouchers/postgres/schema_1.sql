-- What operators of one database remember. Amounts are numeric(20): base units of a u64, readable and exact.

-- The best voucher of a channel. Its row is what processes lock to change it; a row without a voucher is there only
-- while a recorded close names the channel.
CREATE TABLE settle_channels (
    channel            bytea PRIMARY KEY CHECK (octet_length(channel) = 32),
    node               bytea CHECK (octet_length(node) = 32),
    cumulative         numeric(20),
    expires_at         bigint,
    signature          bytea CHECK (octet_length(signature) = 64),
    lasting_cumulative numeric(20),
    lasting_signature  bytea CHECK (octet_length(lasting_signature) = 64),
    close              boolean NOT NULL DEFAULT false,
    since              bigint,
    heard              bigint,
    quarantined_at     bigint,
    quarantine_reason  text,
    closes             integer NOT NULL DEFAULT 0 CHECK (closes >= 0),
    CHECK ((cumulative IS NULL) = (signature IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX settle_quarantine ON settle_channels (channel) WHERE quarantined_at IS NOT NULL;

-- Signed transactions whose end is not known for good.
CREATE TABLE settle_journal (
    signature bytea PRIMARY KEY CHECK (octet_length(signature) = 64),
    entry     bytea NOT NULL
);

-- What became final: one row for each channel of each transaction.
CREATE TABLE settle_history (
    number            bigint GENERATED ALWAYS AS IDENTITY,
    at                bigint NOT NULL,
    kind              smallint NOT NULL,
    node              bytea NOT NULL,
    channel           bytea NOT NULL,
    from_amount       numeric(20) NOT NULL,
    to_amount         numeric(20) NOT NULL,
    node_share        numeric(20) NOT NULL,
    operator_share    numeric(20) NOT NULL,
    protocol_share    numeric(20) NOT NULL,
    refunded          numeric(20) NOT NULL,
    signature         bytea NOT NULL,
    slot              numeric(20) NOT NULL,
    transaction_fee   numeric(20) NOT NULL,
    fee_share         numeric(20) NOT NULL,
    voucher_signature bytea,
    PRIMARY KEY (at, number),
    UNIQUE (signature, channel)
);
CREATE INDEX settle_history_node ON settle_history (node, at, number);

-- Who settles. The fence never falls, so rows are never deleted.
CREATE TABLE settle_leases (
    name      text PRIMARY KEY,
    holder    text NOT NULL,
    fence     bigint NOT NULL,
    lapses_at timestamptz NOT NULL
);
