//! `pgw config`: what is set, by whom, and what could be.

use serde_json::json;

use crate::cli::ConfigCommand;
use crate::config::setting::ALL;
use crate::config::{Config, Origin, Setting};
use crate::failure::Failure;
use crate::output::Output;
use crate::{database, node, redis};

/// Does it.
///
/// # Errors
/// [`Failure`] names the first setting that cannot be used.
pub(crate) fn run(config: &Config, command: &ConfigCommand, out: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check { all } => {
            out.objects(
                ALL.iter().filter_map(|one| value(config, one, *all)),
                &["key", "value", "origin"],
            )?;
            config.warnings.iter().for_each(|warning| out.note(warning));
            node::check(config)?;
            if let Some(warning) = database::options(config)?.as_ref().and_then(database::warning) {
                out.note(warning);
            }
            let redis = redis::options(config)?;
            if let Some(warning) = redis.as_ref().and_then(redis::Options::warning) {
                out.note(warning);
            }
            out.say("\nevery setting can be used");
            Ok(())
        }
        ConfigCommand::Explain => out.objects(
            ALL.iter().map(|one| {
                json!({
                    "object": "setting",
                    "key": one.key,
                    "variable": one.env.join(" "),
                    "default": one.default,
                    "about": one.about,
                })
                .to_string()
            }),
            &["key", "variable", "default", "about"],
        ),
    }
}

fn value(config: &Config, setting: &Setting, all: bool) -> Option<String> {
    let found = config.value(setting);
    let origin = found.map(|value| &value.origin);
    if !all && matches!(origin, None | Some(Origin::Default)) {
        return None;
    }
    let object = json!({
        "object": "value",
        "key": setting.key,
        "value": config.shown(setting),
        "origin": origin.map(ToString::to_string),
    });
    Some(object.to_string())
}
