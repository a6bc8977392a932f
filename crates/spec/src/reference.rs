//! Names of images in registries.

use std::{fmt, str::FromStr};

use crate::Error;

/// The registry of names that say none.
const HUB: &str = "docker.io";

/// The name of an image in a registry, whole: `alpine` is `docker.io/library/alpine:latest`.
///
/// The grammar and what is filled in are those of the
/// [distribution project](https://github.com/distribution/reference), which docker and others use.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Host and, if it says one, port: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry: `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. There is one, or a digest, or both.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, `sha256:` and 64 digits. Where there is one, the tag decides nothing.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| Error::Image {
            given: text.to_owned(),
            reason,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(checked(digest, is_digest, DIGEST)?)),
        None => (text, None),
    };
    // A colon before the last slash is a port's.
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(checked(tag, is_tag, TAG)?)),
        _ => (named, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (HUB, name),
    };
    let registry = match registry {
        "index.docker.io" => HUB.to_owned(),
        other => checked(other, is_host, HOST)?,
    };
    let path = checked(path, is_repository, REPOSITORY)?;
    let repository = match path.contains('/') {
        false if registry == HUB => format!("library/{path}"),
        _ => path,
    };
    if registry.len().saturating_add(repository.len()) >= NAME_MAX {
        return Err("its name is longer than 255 bytes");
    }
    let tag = match (&tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        _ => tag,
    };
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

/// Bytes of registry, slash and repository.
const NAME_MAX: usize = 255;

const DIGEST: &str = "after @ comes a digest: sha256: and 64 digits, 0 to 9 and a to f";
const TAG: &str =
    "after : comes a tag: 1 to 128 letters, digits, _ . and -, not beginning with . or -";
const HOST: &str = "its registry is not a host name or address, with :PORT if need be";
const REPOSITORY: &str = "a name is lower-case letters and digits with single . _ or - between them, \
    in parts separated by /; a directory is written with a leading / or ./; \
    host and busybox are there without a registry";

fn checked(
    text: &str,
    sound: fn(&str) -> bool,
    reason: &'static str,
) -> Result<String, &'static str> {
    sound(text).then(|| text.to_owned()).ok_or(reason)
}

/// What tells a registry from the first part of a repository.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.contains(char::is_uppercase)
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // An address of IPv6 without a port.
        Some(_) if text.ends_with(']') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let part = |part: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !part.is_empty()
            && part.chars().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    port.is_none_or(|port| {
        port.bytes().all(|digit| digit.is_ascii_digit()) && port.parse::<u16>().is_ok()
    }) && match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(part),
    }
}

fn is_repository(text: &str) -> bool {
    let identifier = text.len() == 64 && text.bytes().all(is_hex);
    !identifier && text.split('/').all(is_component)
}

/// Letters and digits, with `.`, `_`, `__` or hyphens between them.
fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(word).filter(|between| !between.is_empty());
    text.starts_with(word)
        && text.ends_with(word)
        && separators.into_iter().all(|between| {
            matches!(between, "." | "_" | "__") || between.bytes().all(|byte| byte == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|c| word(c) || ".-".contains(c))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex))
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn whole(text: &str) -> String {
        text.parse::<Reference>().expect(text).to_string()
    }

    #[test]
    fn what_a_name_leaves_out_is_filled_in() {
        for (short, long) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/x/y:1", "docker.io/x/y:1"),
            (
                "docker.io/library/busybox",
                "docker.io/library/busybox:latest",
            ),
            ("rust-vmm/dev", "docker.io/rust-vmm/dev:latest"),
            ("ghcr.io/x/y", "ghcr.io/x/y:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:tag", "localhost:5000/x:tag"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("[::1]/x", "[::1]/x:latest"),
            ("Host/x", "Host/x:latest"),
            ("a__b/c--d.e", "docker.io/a__b/c--d.e:latest"),
        ] {
            assert_eq!(whole(short), long);
        }
    }

    #[test]
    fn a_digest_needs_no_tag_and_may_have_one() {
        let pinned = format!("alpine@sha256:{HEX}");
        assert_eq!(whole(&pinned), format!("docker.io/library/{pinned}"));
        let both = format!("ghcr.io/x/y:1@sha256:{HEX}");
        let reference: Reference = both.parse().unwrap();
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.digest(), Some(&both[14..]));
        assert_eq!(reference.to_string(), both);
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_rule_that_it_breaks() {
        let long = "x/".repeat(130) + "x";
        let tag = format!("x:{}", "t".repeat(129));
        let digest = format!("x@sha512:{HEX}");
        for (bad, word) in [
            ("", "name"),
            ("Alpine", "lower-case"),
            ("a//b", "lower-case"),
            ("a___b", "lower-case"),
            ("-a", "lower-case"),
            ("a b", "lower-case"),
            ("ä", "lower-case"),
            ("a/../b", "lower-case"),
            (HEX, "lower-case"),
            ("alpine:", "tag"),
            ("alpine:.x", "tag"),
            (&tag, "tag"),
            ("alpine@sha256:12", "sha256"),
            (&digest, "sha256"),
            ("a@b@c", "sha256"),
            ("-h.x/y", "registry"),
            ("h:70000/y", "registry"),
            ("h:+80/y", "registry"),
            ("[::x]:1/y", "registry"),
            (&long, "longer"),
        ] {
            let message = bad.parse::<Reference>().unwrap_err().to_string();
            assert!(message.contains(word), "{bad}: {message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,300}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn a_whole_reference_means_itself(text in "[a-zA-Z0-9./:@_-]{1,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }

        #[test]
        fn sound_parts_make_a_sound_reference(
            host in "[a-z0-9]{1,8}\\.[a-z]{2,4}(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,5}([._-][a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,5}){1,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{host}/{path}:{tag}");
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(reference.to_string(), text);
            prop_assert_eq!(reference.registry(), host);
            prop_assert_eq!(reference.repository(), path);
        }
    }
}
