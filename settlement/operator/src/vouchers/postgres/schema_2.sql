-- A wish to close that was there when an operator started, and that its node has not said since.
ALTER TABLE settle_channels ADD COLUMN doubted boolean NOT NULL DEFAULT false;
