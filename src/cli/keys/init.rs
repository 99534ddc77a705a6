//! `event-manager keys init`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::super::output::Out;
use super::files::{Files, For};
use event_manager_client::new_pair;
use event_manager_zmtp::curve::Certificate;

#[derive(Debug, Args)]
pub(in crate::cli) struct InitArgs {
    /// Where the files are made [default: here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let directory = args.dir.clone().unwrap_or_default();
    let [secret, public, clients, config] =
        ["server.key_secret", "server.key", "keys", "config.json"].map(|name| directory.join(name));
    Files::refuse_existing([&*secret, &public])?;
    let pair = new_pair()?;
    let security = security(&secret, &clients);
    fs::create_dir_all(&clients).with_context(|| format!("{} can't be made", clients.display()))?;
    let mut files = Files::default();
    files.make(&secret, &Certificate::secret_text(&pair), For::Owner)?;
    let text = Certificate::public_text(pair.public());
    files.make(&public, &text, For::Everybody)?;
    let is_configured = config.symlink_metadata().is_ok();
    if !is_configured {
        let text = format!("{}\n", whole(&security));
        files.make(&config, &text, For::Everybody)?;
    }
    files.keep();
    let mut out = Out::new(false);
    let [secret, public, clients, config] =
        [&secret, &public, &clients, &config].map(|path| path.display());
    writeln!(
        out,
        "{secret}: the daemon's secret key; nobody else needs it"
    )?;
    writeln!(
        out,
        "{public}: its public key, {}, which its clients need",
        pair.public()
    )?;
    writeln!(
        out,
        "{clients}: for the public keys of clients: event-manager keys new NAME"
    )?;
    match is_configured {
        false => writeln!(out, "{config}: admits nobody without a key")?,
        true => {
            writeln!(out, "In {config}, this admits nobody without a key:")?;
            writeln!(out, "\"security\": {security}")?;
        }
    }
    Ok(())
}

/// What the configuration has to say.
fn security(secret: &Path, clients: &Path) -> Value {
    json!({"mechanisms": ["curve"], "secretKey": secret, "keysDir": clients})
}

/// A configuration that says nothing else.
fn whole(security: &Value) -> String {
    format!("{:#}", json!({ "security": security }))
}
