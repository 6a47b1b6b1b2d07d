//! `pgw migrate`: the schema.

use clap::Args;
use pgw_storage_postgres::{Migrator, Partitions, Timeouts};
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
    /// With --export: print what divides the large tables into so many partitions by merchant, a power of two from 2 to 256, instead. It makes
    /// vacuums smaller, not statements faster: see docs/scaling.md.
    #[arg(long, requires = "export", conflicts_with = "grants", value_name = "COUNT", value_parser = partitions)]
    partition: Option<Partitions>,
    /// With --export: print which tables Citus is to distribute, by merchant, instead. PGW_DB_ENGINE is then `distributed`.
    #[arg(long, requires = "export", conflicts_with_all = ["grants", "partition"])]
    citus: bool,
    /// With --export: print the settings that the application's role needs with PGW_DB_POOLER=prepared, instead. The role itself may run them.
    #[arg(long, requires = "export", conflicts_with_all = ["grants", "partition", "citus"], value_name = "APP")]
    settings: Option<String>,
}

fn partitions(text: &str) -> Result<Partitions, String> {
    let count = text.parse().ok().and_then(Partitions::new);
    count.ok_or_else(|| format!("{text} is no power of two from 2 to {}", Partitions::MAX))
}

/// Does it.
///
/// # Errors
/// [`Failure`]; migrations before the one that failed stay applied.
pub(crate) async fn run(config: &Config, args: &MigrateArgs, out: Output) -> Result<(), Failure> {
    let migrator = Migrator::new(database::schema(config)?);
    if args.export {
        let sql = match (args.grants.as_deref(), args.partition) {
            (Some([owner, app]), _) => migrator.grants(owner, app),
            (_, Some(partitions)) => migrator.partition(partitions),
            _ if args.citus => migrator.citus(),
            _ => match &args.settings {
                Some(role) => Timeouts::default().for_role(role),
                None => migrator.export(),
            },
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
    let later = if done.is_empty() { migrator.verify(&mut owner).await? } else { Vec::new() };
    out.result(&json!({ verb: done }), || match done.is_empty() {
        true => state(&later),
        false => done.iter().map(|one| format!("{verb}: {one}")).collect::<Vec<_>>().join("\n"),
    });
    Ok(())
}

/// What a schema is in which nothing is missing, and which has these migrations of later versions.
pub(crate) fn state(later: &[String]) -> String {
    match later {
        [] => "the schema is up to date".to_owned(),
        later => {
            format!(
                "the schema is a later version's, beside which this one works: {}",
                later.join(", ")
            )
        }
    }
}
