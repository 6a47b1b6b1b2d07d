//! `pgw migrate`: the schema.

use clap::Args;
use pgw_storage_postgres::Migrator;
use serde_json::json;

use crate::config::Config;
use crate::database;
use crate::failure::Failure;
use crate::output::Output;

/// How to migrate.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Say what would be done, and do nothing.
    #[arg(long, conflicts_with = "export")]
    dry_run: bool,
    /// Print every migration as plain SQL, for another migrator. Needs no database.
    #[arg(long)]
    export: bool,
    /// With --export: print what the owner grants to the application's role, instead.
    #[arg(long, requires = "export", value_names = ["OWNER", "APP"], num_args = 2)]
    grants: Option<Vec<String>>,
}

/// Does it.
///
/// # Errors
/// [`Failure`]; migrations before the one that failed stay applied.
pub(crate) async fn run(config: &Config, args: &MigrateArgs, out: Output) -> Result<(), Failure> {
    let migrator = Migrator::new(database::schema(config)?);
    if args.export {
        let sql = match args.grants.as_deref() {
            Some([owner, app]) => migrator.grants(owner, app),
            _ => migrator.export(),
        };
        out.result(&json!({ "sql": sql }), || sql.trim_end().to_owned());
        return Ok(());
    }
    let mut owner = database::connection(config).await?;
    let (done, verb) = if args.dry_run {
        (migrator.pending(&mut owner).await?, "pending")
    } else {
        (migrator.run(&mut owner).await?, "applied")
    };
    out.result(&json!({ verb: done }), || match done.is_empty() {
        true => "the schema is up to date".to_owned(),
        false => done.iter().map(|one| format!("{verb}: {one}")).collect::<Vec<_>>().join("\n"),
    });
    Ok(())
}
