//! What a host's administrator and its user say of registries.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use spec::Reference;
use ureq::tls::{Certificate, PemItem, parse_pem};

use super::Credentials;
use crate::{Error, Result, error::file};

/// Which registries there are, and how to talk to them.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    entries: Vec<Entry>,
    credentials: Credentials,
    /// How long to wait, and how often to try.
    pub patience: Patience,
}

/// Certificates of those who vouch for a registry.
pub(crate) type Authorities = Arc<Vec<Certificate<'static>>>;

/// One registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Its host and port, as references name it.
    pub name: String,
    /// Where to look first, in this order: `HOST[:PORT][/PATH]`. The path is put before the
    /// repository's.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Whether it may do without TLS, or with a certificate that nobody vouches for.
    #[serde(default)]
    pub insecure: bool,
    /// A file of certificates in PEM. Who has one of these vouches for the registry, and for where it sends
    /// us; nobody else does.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// A registry, and who vouches for it if not those who do for most.
#[derive(Debug, Clone)]
struct Entry {
    registry: Registry,
    authorities: Option<Authorities>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    registry: Vec<Registry>,
}

/// How long to wait, and how often to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the next byte.
    pub stall: Duration,
    /// Before the second attempt; doubled before each further one.
    pub pause: Duration,
    /// Between two attempts at most, whatever the registry asks for.
    pub pause_max: Duration,
    /// How often something is tried that does not get on.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            pause: Duration::from_millis(500),
            pause_max: Duration::from_secs(60),
            attempts: 5,
        }
    }
}

/// A place to look for an image.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Host and port.
    pub(crate) registry: String,
    /// The image's path there.
    pub(crate) repository: String,
    /// Whether it may do without a certificate.
    pub(crate) insecure: bool,
    /// Who vouches for it, if not those who do for most.
    pub(crate) authorities: Option<Authorities>,
}

impl Registries {
    /// With these entries, and no credentials.
    ///
    /// # Errors
    /// Which name or mirror is none, or which file has no certificates.
    pub fn new(entries: Vec<Registry>) -> Result<Self, String> {
        let entries = entries.into_iter().map(Entry::new);
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
            ..Self::default()
        })
    }

    /// What the user says, in `$XDG_CONFIG_HOME/crumble/registries.toml` (or in `~/.config`), before
    /// what the host says, in `/etc/crumble/registries.toml`; with the user's credentials.
    ///
    /// # Errors
    /// [`Error::Configuration`] if a file has mistakes, [`Error::File`] if it cannot be read.
    pub fn of_user() -> Result<Self> {
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let base = absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")));
        let mut files: Vec<PathBuf> = base.into_iter().collect();
        files.push("/etc".into());
        let files = files
            .into_iter()
            .map(|base| base.join("crumble").join("registries.toml"));
        Ok(Self::in_files(files)?.with_credentials(Credentials::of_user()))
    }

    /// What these files say; the first that names a registry counts. One that is not there says
    /// nothing.
    ///
    /// # Errors
    /// As [`Self::of_user`].
    pub fn in_files(files: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let mut entries = Vec::new();
        for path in files {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(file("read", path)(error)),
            };
            let written = toml::from_str::<Written>(&text).map_err(|error| error.to_string());
            let checked = written.and_then(|written| Self::new(written.registry));
            match checked {
                Ok(checked) => entries.extend(checked.entries),
                Err(reason) => return Err(Error::Configuration { path, reason }),
            }
        }
        Ok(Self {
            entries,
            ..Self::default()
        })
    }

    /// The same, with these credentials.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Where to look for an image, the last being the registry that its name says.
    pub(crate) fn places(&self, reference: &Reference) -> Vec<Place> {
        let repository = reference.repository();
        let entry = self.entry(reference.registry());
        let mirrors = entry
            .map(|entry| entry.registry.mirrors.as_slice())
            .unwrap_or_default();
        let mirror = |text: &String| {
            let (registry, path) = place(text)?;
            Some(self.place(registry, format!("{path}{repository}")))
        };
        let mut places: Vec<Place> = mirrors.iter().filter_map(mirror).collect();
        places.push(self.place(reference.registry().to_owned(), repository.to_owned()));
        places
    }

    fn place(&self, registry: String, repository: String) -> Place {
        let entry = self.entry(&registry);
        Place {
            insecure: entry.is_some_and(|entry| entry.registry.insecure),
            authorities: entry.and_then(|entry| entry.authorities.clone()),
            registry,
            repository,
        }
    }

    fn entry(&self, registry: &str) -> Option<&Entry> {
        let mut entries = self.entries.iter();
        entries.find(|entry| entry.registry.name == registry)
    }
}

impl Entry {
    /// Which name or mirror is none, or that the file has no certificates, is the error.
    fn new(registry: Registry) -> Result<Self, String> {
        let host = |text: &str| place(text).is_some_and(|(_, path)| path.is_empty());
        if registry.name != "docker.io" && !host(&registry.name) {
            return Err(format!(
                "\"{}\" is not a registry: write HOST[:PORT]",
                registry.name
            ));
        }
        let mut mirrors = registry.mirrors.iter();
        if let Some(bad) = mirrors.find(|mirror| place(mirror).is_none()) {
            return Err(format!(
                "\"{bad}\" is not a mirror: write HOST[:PORT][/PATH]"
            ));
        }
        let authorities = registry.ca.as_deref().map(certificates).transpose()?;
        Ok(Self {
            registry,
            authorities,
        })
    }
}

/// The certificates in a file.
fn certificates(path: &Path) -> Result<Authorities, String> {
    let failed = |reason: String| format!("{}: {reason}", path.display());
    let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) =
            item.map_err(|error| failed(error.to_string()))?
        {
            certificates.push(certificate);
        }
    }
    match certificates.is_empty() {
        true => Err(failed(
            "there is no certificate in it; write PEM".to_owned(),
        )),
        false => Ok(Arc::new(certificates)),
    }
}

/// Host and port, and the path with a slash at its end if there is one.
fn place(text: &str) -> Option<(String, String)> {
    let inside: Reference = format!("{text}/x").parse().ok()?;
    let path = inside.repository().strip_suffix('x')?;
    (format!("{}/{path}", inside.registry()) == format!("{text}/"))
        .then(|| (inside.registry().to_owned(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Registries> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.toml");
        fs::write(&path, text).unwrap();
        Registries::in_files([directory.path().join("absent"), path])
    }

    #[test]
    fn mirrors_come_before_the_registry_itself() {
        let registries = read(
            "[[registry]]\nname = \"docker.io\"\nmirrors = [\"localhost:5000/hub\", \"m.example\"]\n\
             [[registry]]\nname = \"m.example\"\ninsecure = true",
        )
        .unwrap();
        let places = registries.places(&"alpine".parse().unwrap());
        let shown: Vec<_> = places
            .iter()
            .map(|place| format!("{}/{} {}", place.registry, place.repository, place.insecure))
            .collect();
        assert_eq!(
            shown,
            [
                "localhost:5000/hub/library/alpine false",
                "m.example/library/alpine true",
                "docker.io/library/alpine false",
            ]
        );
        assert_eq!(registries.places(&"ghcr.io/x/y".parse().unwrap()).len(), 1);
    }

    #[test]
    fn mistakes_are_named_with_their_file() {
        for (text, word) in [
            ("x = 1", "unknown field"),
            ("[[registry]]\nname = \"https://x.y\"", "is not a registry"),
            ("[[registry]]\nname = \"ghcr.io/x\"", "is not a registry"),
            (
                "[[registry]]\nname = \"ghcr.io\"\nmirrors = [\"nowhere\"]",
                "is not a mirror",
            ),
            (
                "[[registry]]\nname = \"ghcr.io\"\nmirror = \"x\"",
                "unknown field",
            ),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(
                message.contains(word) && message.contains("registries.toml"),
                "{message}"
            );
        }
    }

    #[test]
    fn the_first_file_that_names_a_registry_says_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let certificate = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/images/localhost/certificate.pem"
        );
        let named = "[[registry]]\nname = \"a.example\"\n";
        let vouched = format!("{named}ca = \"{certificate}\"\n");
        let reference: Reference = "a.example/x".parse().unwrap();
        for (first, second, expected) in [
            (named, vouched.as_str(), false),
            (vouched.as_str(), named, true),
        ] {
            let files = ["user", "host"].map(|name| directory.path().join(name));
            for (file, text) in files.iter().zip([first, second]) {
                fs::write(file, text).unwrap();
            }
            let registries = Registries::in_files(files).unwrap();
            let places = registries.places(&reference);
            assert_eq!(places[0].authorities.is_some(), expected);
        }
    }
}
