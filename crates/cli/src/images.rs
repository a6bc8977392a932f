//! `crumble image`, and images of machines that are kept.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crumble::{
    Name, Reference,
    image::{Format, Platform, Policy, Pull, Summary},
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::{
    arguments::{Images as Verb, SaveFormat},
    bars::Bars,
    report::Failure,
};

/// Does what was asked for.
pub(crate) fn images(verb: Verb) -> Result<ExitCode, Failure> {
    let images = crumble::Images::of_user()?;
    let store = images.store();
    let bars = Bars::new();
    match verb {
        Verb::Ls { json } => list(&store.list()?, json)?,
        Verb::Pull { name, machine } => pull(&images, name, machine.platform(), &bars)?,
        Verb::Push {
            name,
            target,
            machine,
        } => {
            let target = target.unwrap_or_else(|| name.clone());
            let digest = store.push(&name.to_string(), &machine.platform(), &target, &bars)?;
            say(&digest.to_string())?;
        }
        Verb::Import {
            source,
            name,
            machine,
        } => {
            let unpacker = images.unpacker();
            let image = store.import(
                &source,
                name.as_ref(),
                &machine.platform(),
                &unpacker,
                &bars,
            )?;
            say(image.name())?;
        }
        Verb::Load { input, machine } => {
            let file = source(input)?;
            let unpacker = images.unpacker();
            let loaded = store.load(file.path(), &machine.platform(), &unpacker, &bars)?;
            loaded.iter().try_for_each(|image| say(image.name()))?;
        }
        Verb::Export {
            name,
            output,
            machine,
        } => {
            let mut output = target(output.as_deref())?;
            images.export(&name, &machine.platform(), &mut output)?;
        }
        Verb::Save {
            name,
            output,
            format,
            machine,
        } => {
            let mut output = target(output.as_deref())?;
            store.save(&name, &machine.platform(), format.into(), &mut output)?;
        }
        Verb::Tag { name, new } => store.tag(&name, &new)?,
        Verb::Inspect { name, machine } => inspect(store, &name, &machine.platform())?,
        Verb::Rm { names } => names.iter().try_for_each(|name| store.remove(name))?,
        Verb::Prune => prune(store)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pull(
    images: &crumble::Images,
    name: Reference,
    platform: Platform,
    bars: &Bars,
) -> Result<(), Failure> {
    let pull = Pull {
        platform,
        policy: Policy::Always,
    };
    let image = images.get(&crumble::Image::Registry(name), &pull, bars)?;
    say(&image.digest().to_string())
}

fn prune(store: &crumble::image::Store) -> Result<(), Failure> {
    let pruned = store.prune()?;
    let size = indicatif::HumanBytes(pruned.bytes);
    eprintln!("crumble: {} files removed, {size}", pruned.files);
    Ok(())
}

impl From<SaveFormat> for Format {
    fn from(format: SaveFormat) -> Self {
        match format {
            SaveFormat::Oci => Self::Oci,
            SaveFormat::Docker => Self::Docker,
        }
    }
}

/// Makes an image of a machine that is kept.
pub(crate) fn commit(name: &Name, image: &Reference) -> Result<ExitCode, Failure> {
    let digest = crumble::Images::of_user()?.commit(name, image)?;
    say(&digest.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// An archive, which is read in any order.
enum Source {
    Named(PathBuf),
    /// A copy of what came in.
    Copied(NamedTempFile),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Copied(file) => file.path(),
        }
    }
}

/// Where an archive is.
fn source(path: Option<PathBuf>) -> Result<Source, Failure> {
    let copy = |source| Failure::System {
        what: "read the archive from standard input",
        source,
    };
    match path {
        Some(path) => Ok(Source::Named(path)),
        None if io::stdin().is_terminal() => Err(Failure::ArchiveFromTerminal),
        None => {
            let mut file = NamedTempFile::new().map_err(copy)?;
            io::copy(&mut io::stdin().lock(), &mut file).map_err(copy)?;
            Ok(Source::Copied(file))
        }
    }
}

/// Where an archive goes. A terminal is no place for one.
fn target(path: Option<&Path>) -> Result<Box<dyn Write>, Failure> {
    match path {
        Some(path) => {
            let file = File::create(path).map_err(|source| Failure::Create {
                path: path.to_owned(),
                source,
            })?;
            Ok(Box::new(file))
        }
        None if io::stdout().is_terminal() => Err(Failure::ArchiveToTerminal),
        None => Ok(Box::new(io::stdout().lock())),
    }
}

fn inspect(store: &crumble::image::Store, name: &str, platform: &Platform) -> Result<(), Failure> {
    let raw = store.inspect(name, platform)?;
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let document = json!({
        "manifest": parse(&raw.manifest),
        "config": parse(&raw.config),
    });
    say(&format!("{document:#}"))
}

fn list(images: &[Summary], json: bool) -> Result<(), Failure> {
    if json {
        let all: Vec<Value> = images.iter().map(as_json).collect();
        return say(&format!("{:#}", Value::from(all)));
    }
    if images.is_empty() {
        eprintln!("crumble: no images; `crumble image pull NAME` fetches one");
        return Ok(());
    }
    let width = images.iter().map(|image| image.name.len()).max();
    let width = width.unwrap_or(0);
    say(&format!(
        "{:width$}  {:12}  {:>11}  PLATFORM",
        "NAME", "ID", "SIZE"
    ))?;
    for image in images {
        let id: String = image.id.hex().chars().take(12).collect();
        let size = indicatif::HumanBytes(image.size).to_string();
        let (name, platform) = (&image.name, &image.platform);
        say(&format!("{name:width$}  {id:12}  {size:>11}  {platform}"))?;
    }
    Ok(())
}

fn as_json(image: &Summary) -> Value {
    json!({
        "name": image.name,
        "platform": image.platform.to_string(),
        "digest": image.digest.to_string(),
        "id": image.id.to_string(),
        "size": image.size,
        "created": image.created,
    })
}

/// A line on standard output, which may be closed.
fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(|source| Failure::System {
        what: "write to standard output",
        source,
    })
}
