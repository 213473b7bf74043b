-- Why a transaction failed in its block, where it did: it cost its fee and did nothing else.
ALTER TABLE settle_history ADD COLUMN error text;
