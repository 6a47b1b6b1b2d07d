//! `pgw backup` and `pgw verify-backup`: a dump that is only there when it is whole, and a restore that proves it.

mod tools;
mod verify;

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use pgw_core::env::Env;
use serde_json::json;

use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(crate) use verify::{VerifyArgs, run as verify};

/// Where to, and what becomes of old ones.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The directory of backups.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// A shell command that the dump goes through, such as `age -r age1…`. When it fails, there is no backup.
    #[arg(long, value_name = "COMMAND")]
    through: Option<String>,
    /// Afterwards delete backups older than this many days. The newest one and the newest verified one always stay.
    #[arg(long, default_value_t = 30, value_name = "DAYS")]
    keep_days: u32,
}

/// Writes a backup, then deletes old ones.
///
/// # Errors
/// [`Failure`]; no file is left that looks like a backup and is none, and nothing old is deleted.
pub(crate) async fn run(config: &Config, args: &BackupArgs, out: Output) -> Result<(), Failure> {
    fs::create_dir_all(&args.to)
        .map_err(Failure::system(format!("cannot make {}", args.to.display())))?;
    let name = name(&Env::system().now().to_string(), args.through.is_some());
    let path = args.to.join(&name);
    sweep(&args.to)?;
    // Two at once must not write into one file.
    let part = args.to.join(format!(".{name}.{:016x}{PART}", Env::system().u64()));
    // From here on it is ours, and ours to remove.
    let file = create(&part)?;
    let progress = out.progress("dumping", None);
    let dumped = tools::dump(config, args.through.as_deref(), file).await;
    progress.finish_and_clear();
    let bytes = match dumped.and_then(|()| finish(&part, &path)) {
        Ok(bytes) => bytes,
        Err(failure) => {
            // What is half written is nobody's backup.
            let _ = fs::remove_file(&part);
            return Err(failure);
        }
    };
    let deleted = prune(&args.to, args.keep_days)?;
    let value = json!({ "object": "backup", "path": path, "bytes": bytes, "deleted": deleted });
    out.result(&value, || {
        let old = match deleted.len() {
            0 => String::new(),
            n => format!("; {n} old ones deleted"),
        };
        format!(
            "{} ({bytes} bytes){old}. Prove it: pgw verify-backup {}",
            path.display(),
            path.display()
        )
    });
    Ok(())
}

/// `backup_20260131_120000.dump`, by the clock of `2026-01-31T12:00:00Z`.
fn name(now: &str, is_filtered: bool) -> String {
    let digits: String = now.chars().filter(char::is_ascii_digit).take(14).collect();
    let (day, time) = digits.split_at(8.min(digits.len()));
    let end = if is_filtered { ".dump.filtered" } else { ".dump" };
    format!("{PREFIX}{day}_{time}{end}")
}

/// A new file for its owner only: everybody's payments are in it.
fn create(part: &Path) -> Result<fs::File, Failure> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(part).map_err(Failure::system(format!("cannot write {}", part.display())))
}

/// Deletes what killed backups left half written, before there is no room for a whole one. One that is still being written was
/// written to of late.
fn sweep(directory: &Path) -> Result<(), Failure> {
    let reading = || Failure::system(format!("cannot read {}", directory.display()));
    for entry in fs::read_dir(directory).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_part = name.starts_with(&format!(".{PREFIX}")) && name.ends_with(PART);
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        if is_part && written.is_ok_and(|written| age(written) > ABANDONED) {
            let path = entry.path();
            tracing::info!(path = %path.display(), "half a backup of a killed process is deleted");
            fs::remove_file(&path)
                .map_err(Failure::system(format!("cannot delete {}", path.display())))?;
        }
    }
    Ok(())
}

/// Gives a dump its name once all of it is on the disk.
fn finish(part: &Path, path: &Path) -> Result<u64, Failure> {
    let file = fs::File::open(part).map_err(Failure::system("the dump is gone"))?;
    let bytes = file.metadata().map_err(Failure::system("the dump is gone"))?.len();
    if bytes == 0 {
        return Err(Failure::new(Exit::Failed, "the dump is empty"));
    }
    file.sync_all().map_err(Failure::system("the dump cannot be written to the disk"))?;
    fs::rename(part, path).map_err(Failure::system("the dump cannot be named"))?;
    // The name is on the disk once the directory is.
    let directory = path.parent().unwrap_or(Path::new("."));
    let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(Failure::system("the directory cannot be written to the disk"))?;
    Ok(bytes)
}

/// Deletes backups older than `days`, but for the newest and the newest verified one.
fn prune(directory: &Path, days: u32) -> Result<Vec<PathBuf>, Failure> {
    let reading = || Failure::system(format!("cannot read {}", directory.display()));
    let mut backups = Vec::new();
    for entry in fs::read_dir(directory).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_backup = name.starts_with(PREFIX) && !name.ends_with(VERIFIED);
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        if let (true, Ok(written)) = (is_backup, written) {
            backups.push((written, entry.path()));
        }
    }
    backups.sort();
    let verified = backups.iter().rposition(|(_, path)| mark(path).exists());
    let newest = backups.len().checked_sub(1);
    let keep = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    let mut deleted = Vec::new();
    for (place, (written, path)) in backups.into_iter().enumerate() {
        let stays = Some(place) == newest || Some(place) == verified;
        // A file from the future is not old.
        let age = age(written);
        if !stays && age > keep {
            fs::remove_file(&path)
                .map_err(Failure::system(format!("cannot delete {}", path.display())))?;
            let _ = fs::remove_file(mark(&path));
            deleted.push(path);
        }
    }
    Ok(deleted)
}

fn age(written: SystemTime) -> Duration {
    let now = Duration::from_micros(Env::system().now().as_micros().unsigned_abs());
    let written = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(written)
}

/// The file that says a backup was verified.
fn mark(backup: &Path) -> PathBuf {
    let mut name = backup.as_os_str().to_owned();
    name.push(VERIFIED);
    name.into()
}

const PREFIX: &str = "backup_";
const VERIFIED: &str = ".verified";
const PART: &str = ".part";
/// How long nothing is written to a dump that is under way, at the very most: a table that is waited for, a disk that hangs.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_sort_by_time() {
        assert_eq!(name("2026-01-31T12:00:05.123456Z", false), "backup_20260131_120005.dump");
        assert_eq!(name("2026-01-31T12:00:05Z", true), "backup_20260131_120005.dump.filtered");
    }

    #[test]
    fn what_killed_ones_left_is_deleted_and_what_is_written_just_now_is_not() {
        let directory = std::env::temp_dir().join(format!("pgw-sweep-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let day = |days: u64| {
            Duration::from_micros(Env::system().now().as_micros().unsigned_abs())
                .saturating_sub(Duration::from_secs(days * 86_400))
        };
        for (name, days) in [
            (".backup_1.dump.0f.part", 2),
            (".backup_2.dump.0f.part", 0),
            (".other.part", 2),
            ("backup_1.dump", 2),
        ] {
            let file = create(&directory.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + day(days)).unwrap();
        }
        sweep(&directory).unwrap();
        let left: BTreeSet<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let expected = [".backup_2.dump.0f.part", ".other.part", "backup_1.dump"];
        assert_eq!(left, expected.map(str::to_owned).into());
        assert!(create(&directory.join("backup_1.dump")).is_err(), "it is somebody else's");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_last_good_ones_stay_however_old() {
        let directory = std::env::temp_dir().join(format!("pgw-prune-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let old = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        for (name, day) in [
            ("backup_1.dump", 1),
            ("backup_2.dump", 2),
            ("backup_3.dump", 3),
            ("backup_4.dump", 4),
            ("notes.txt", 1),
        ] {
            let file = fs::File::create(directory.join(name)).unwrap();
            file.set_modified(old(day)).unwrap();
        }
        fs::write(mark(&directory.join("backup_2.dump")), "").unwrap();
        assert_eq!(prune(&directory, 30).unwrap().len(), 2);
        let left: BTreeSet<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let expected = ["backup_2.dump", "backup_2.dump.verified", "backup_4.dump", "notes.txt"];
        assert_eq!(left, expected.map(str::to_owned).into());
        assert!(prune(&directory, 30).unwrap().is_empty());
        fs::remove_dir_all(&directory).unwrap();
    }
}
