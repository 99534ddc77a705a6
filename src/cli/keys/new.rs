//! `event-manager keys new`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;

use super::super::output::{Out, quoted};
use super::files::{Files, For};
use crate::config::{Loaded, Sources};
use crate::keys::own_pair;
use event_manager_client::new_pair;
use event_manager_zmtp::curve::Certificate;

/// Bytes of a name: its files have a few more.
const NAME_BYTES_MAX: usize = 200;

#[derive(Debug, Args)]
pub(in crate::cli) struct NewArgs {
    /// The client's name, as the daemon will know it.
    #[arg(value_parser = name)]
    name: String,
    /// Where the public key is put [default: the security.keysDir of the configuration; without one, beside
    /// the secret key]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the secret key is put [default: here]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The daemon's configuration file [environment: CONFIG_PATH; default: ./config.json]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

/// A name that is a file's, too.
fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
    }
    if text.starts_with(['.', '-']) || text.contains('/') || text.contains(char::is_control) {
        return Err(
            "a name begins with no dot or dash, and has no slash or control character".into(),
        );
    }
    match text {
        "event-manager" => Err(
            "that is the name of the daemon itself; its keys are made by `event-manager keys init`"
                .into(),
        ),
        "anonymous" => Err("that is the name of peers without a key".into()),
        _ => Ok(text.to_owned()),
    }
}

pub(super) fn run(args: &NewArgs) -> anyhow::Result<()> {
    let config = match &args.dir {
        // Nothing else of it is needed.
        Some(_) => Loaded::load(&Sources::from_env(args.config.clone(), vec![])).ok(),
        None => Some(Loaded::load(&Sources::from_env(
            args.config.clone(),
            vec![],
        ))?),
    };
    let security = config.map(|loaded| loaded.config.security);
    let keys_dir = security
        .as_ref()
        .and_then(|security| security.keys_dir.clone());
    let admitted = args.dir.as_ref().or(keys_dir.as_ref());
    let out = args.out.clone().unwrap_or_default();
    let secret = out.join(format!("{}.key_secret", args.name));
    let public = admitted.unwrap_or(&out);
    if keys_dir.as_deref().is_some_and(|keys| is_same(keys, &out)) {
        bail!(
            "{} is security.keysDir, where no secret belongs: name another directory with --out",
            shown(&out)
        );
    }
    let public = public.join(format!("{}.key", args.name));
    Files::refuse_existing([&*secret, &public])?;
    let pair = new_pair()?;
    let mut files = Files::default();
    files.make(&secret, &Certificate::secret_text(&pair), For::Owner)?;
    let text = Certificate::public_text(pair.public());
    files.make(&public, &text, For::Everybody)?;
    files.keep();

    let mut out = Out::new(false);
    writeln!(out, "{}: both keys, for the client alone", secret.display())?;
    match admitted {
        Some(_) => writeln!(out, "{}: its public key, which admits it", public.display())?,
        None => writeln!(
            out,
            "{}: its public key; the configuration names no security.keysDir, where it would admit the client",
            public.display()
        )?,
    }
    // Whoever can't read the daemon's secret may have its public file.
    if let Some(Ok(Some(own))) = security.as_ref().map(own_pair) {
        let (file, server) = (secret.to_string_lossy(), own.public().to_string());
        writeln!(
            out,
            "The client connects with --key {} --server-key {}",
            quoted(&file),
            quoted(&server)
        )?;
    }
    Ok(())
}

fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| shown_path(path).canonicalize().ok();
    real(a).is_some_and(|a| Some(a) == real(b))
}

/// The empty path is this directory.
fn shown_path(path: &Path) -> &Path {
    match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    }
}

fn shown(path: &Path) -> String {
    shown_path(path).display().to_string()
}
