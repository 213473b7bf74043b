//! The tables, as numbered steps that are never changed once they are out; and what every connection is told.

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{PgConnection, PgPool, SqlSafeStr};

use super::super::StoreError;
use super::failure::Failure;

/// Applies the steps that are missing, under an advisory lock.
pub(super) async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    let steps = STEPS.iter().map(|(version, name, sql)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    migrator.dangerous_set_table_name("settle_schema");
    migrator.run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => StoreError::Newer { found, known: LATEST },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Failure::from(error).into(),
        other => StoreError::Database(other.to_string()),
    })
}

/// Bounds on what a statement may take, so that a dead peer's locks do not last; and commits that are durable, where
/// the server's default is that they are not.
pub(super) async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('statement_timeout', '10s', false), set_config('lock_timeout', '5s', false), \
         set_config('idle_in_transaction_session_timeout', '10s', false), \
         set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' \
         ELSE current_setting('synchronous_commit') END, false)",
    )
    .execute(connection)
    .await
    .map(|_| ())
}

/// Number, name and statements of each step.
const STEPS: [(i64, &str, &str); 5] = [
    (1, "memory", include_str!("schema_1.sql")),
    (2, "doubt", include_str!("schema_2.sql")),
    (3, "failures", include_str!("schema_3.sql")),
    (4, "deployment", include_str!("schema_4.sql")),
    (5, "wishes", include_str!("schema_5.sql")),
];
const LATEST: i64 = STEPS[STEPS.len() - 1].0;
