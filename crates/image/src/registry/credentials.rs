//! The names and passwords that `docker login` and `podman login` have kept.

use std::{env, fs::File, io, path::PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};

use crate::{Error, Result, error, text};

/// What docker's own registry is called where credentials are kept.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Password {
        user: String,
        password: String,
    },
    /// What OAuth calls a refresh token.
    Identity(String),
}

/// The files in which credentials are looked for, the first that has them counts.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
}

impl Credentials {
    /// `$REGISTRY_AUTH_FILE`; `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`;
    /// `$XDG_RUNTIME_DIR/containers/auth.json`.
    #[must_use]
    pub fn of_user() -> Self {
        let variable = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let docker =
            variable("DOCKER_CONFIG").or_else(|| variable("HOME").map(|home| home.join(".docker")));
        let podman = variable("XDG_RUNTIME_DIR");
        let files = [
            variable("REGISTRY_AUTH_FILE"),
            docker.map(|directory| directory.join("config.json")),
            podman.map(|directory| directory.join("containers").join("auth.json")),
        ];
        Self::in_files(files.into_iter().flatten().collect())
    }

    /// In these files, each in the form of docker's `config.json`. One that is not there has none.
    #[must_use]
    pub fn in_files(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// Those for a registry. Runs credential helpers, where a file says so.
    pub(crate) fn of(&self, registry: &str) -> Result<Option<Login>> {
        for path in &self.files {
            let config = match File::open(path) {
                Ok(config) => io::BufReader::new(config),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error::file("read", path)(error)),
            };
            let key = if registry == "docker.io" {
                HUB_KEY
            } else {
                registry
            };
            match docker_credential::get_credential_from_reader(config, key) {
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Ok(Some(Login::Password { user, password }));
                }
                Ok(DockerCredential::IdentityToken(token)) => {
                    return Ok(Some(Login::Identity(token)));
                }
                Err(error) if has_none(&error) => {}
                Err(error) => {
                    return Err(Error::Credentials {
                        registry: registry.to_owned(),
                        path: path.clone(),
                        reason: reason(&error),
                    });
                }
            }
        }
        Ok(None)
    }
}

/// Whether that is just to say that it knows none. Helpers say so in words, which docker compares too.
fn has_none(error: &CredentialRetrievalError) -> bool {
    match error {
        CredentialRetrievalError::NoCredentialConfigured => true,
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. } => [stdout, stderr]
            .iter()
            .any(|said| said.contains("credentials not found")),
        _ => false,
    }
}

fn reason(error: &CredentialRetrievalError) -> String {
    match error {
        CredentialRetrievalError::HelperCommunicationError => {
            "the program docker-credential-NAME that it names in credsStore or credHelpers cannot be \
             run: install it, or remove that entry"
                .to_owned()
        }
        other => text::shown(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(files: &[&str], registry: &str) -> Result<Option<Login>> {
        let directory = tempfile::tempdir().unwrap();
        let write = |(index, text): (usize, &&str)| {
            let path = directory.path().join(index.to_string());
            fs::write(&path, text).unwrap();
            path
        };
        let mut paths = vec![directory.path().join("absent")];
        paths.extend(files.iter().enumerate().map(write));
        Credentials::in_files(paths).of(registry)
    }

    fn password(user: &str, password: &str) -> Login {
        Login::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn the_first_file_that_has_a_registry_s_credentials_counts() {
        // user:secret and other:word.
        let one = r#"{"auths":{"localhost:5000":{"auth":"dXNlcjpzZWNyZXQ="}}}"#;
        let two = r#"{"auths":{"localhost:5000":{"auth":"b3RoZXI6d29yZA=="},
            "https://index.docker.io/v1/":{"auth":"b3RoZXI6d29yZA=="}}}"#;
        let of = |registry| found(&[one, two], registry).unwrap();
        assert!(of("localhost:5000") == Some(password("user", "secret")));
        assert!(of("docker.io") == Some(password("other", "word")));
        assert!(of("ghcr.io").is_none());
    }

    #[test]
    fn a_file_that_cannot_be_read_and_a_helper_that_is_missing_are_errors() {
        for (text, word) in [
            ("{", "read"),
            (
                r#"{"credsStore":"no-such-helper"}"#,
                "docker-credential-NAME",
            ),
            (r#"{"auths":{"x.y":{"auth":"!"}}}"#, "decode"),
        ] {
            let Err(error) = found(&[text], "x.y") else {
                panic!("{text}")
            };
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
