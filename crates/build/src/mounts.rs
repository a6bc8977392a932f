//! `RUN --mount`: what a command sees beside its root.

use std::collections::BTreeMap;

use crate::{words::Words, worker::Layer};

/// Something at a place in a command's root that is not of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// An absolute path; `None` for a secret that is in the environment only.
    pub target: Option<String>,
    /// What is there.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A part of a root.
    Bind {
        /// The root.
        layers: Vec<Layer>,
        /// The path in it of what is mounted, absolute.
        source: String,
        /// Whether the command may write to it; what it writes is forgotten.
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// Whether the command may not write to it.
        read_only: bool,
        /// Whose it is when it is made.
        owner: Owner,
    },
    /// A file that is in no layer.
    Secret {
        /// Its name.
        id: String,
        /// The variable that has its contents.
        env: Option<String>,
        /// Whether it is an error if there is none.
        required: bool,
        /// Whose it is.
        owner: Owner,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Its limit in bytes.
        size: Option<u64>,
    },
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// Others get one of their own.
    Private,
    /// Others wait.
    Locked,
}

/// Whose a file or a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permissions.
    pub mode: u32,
}

/// A mount as it is asked for: variables are not replaced, and a [`MountKind::Bind`] has no layers yet.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    mount: Mount,
    /// The stage or image of a bind; `None` for the context.
    pub(crate) from: Option<String>,
}

/// What is left of the options; one without a value is `true`.
struct Given<'a>(BTreeMap<String, &'a str>);

/// Reads the value of `--mount`.
pub(crate) fn parse(text: &str) -> Result<Wanted, String> {
    let options = text.split(',').map(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, "true"));
        (name.trim().to_ascii_lowercase(), value.trim())
    });
    let mut given = Given(options.collect());
    let wanted = given
        .wanted()
        .and_then(|wanted| given.end().map(|()| wanted));
    wanted.map_err(|reason| format!("--mount={text}: {reason}"))
}

impl<'a> Given<'a> {
    fn wanted(&mut self) -> Result<Wanted, String> {
        let mut from = None;
        let target = self.take(&["target", "dst", "destination"]);
        let target = target.filter(|path| !path.is_empty()).map(str::to_owned);
        let kind = match self.take(&["type"]).unwrap_or("bind") {
            "bind" => {
                from = self.take(&["from"]).map(str::to_owned);
                self.bind()?
            }
            "cache" => self.cache(target.as_deref())?,
            "secret" => return self.secret(target),
            "tmpfs" => MountKind::Tmpfs {
                size: self.read(&["size"], bytes)?,
            },
            "ssh" => return Err("ssh is not supported; use a secret with a key".to_owned()),
            other => {
                return Err(format!(
                    "there is no type {other}, but bind, cache, secret and tmpfs"
                ));
            }
        };
        if target.is_none() {
            return Err("it needs a target=PATH".to_owned());
        }
        if from.as_ref().is_some_and(|from| from.contains('$')) {
            return Err(
                "from takes no variables; give the image a name with FROM before".to_owned(),
            );
        }
        let mount = Mount { target, kind };
        Ok(Wanted { mount, from })
    }

    /// Takes the value of an option, by any of its names.
    fn take(&mut self, names: &[&str]) -> Option<&'a str> {
        names.iter().find_map(|name| self.0.remove(*name))
    }

    /// Takes the value of an option that has to be something.
    fn read<T>(
        &mut self,
        names: &[&str],
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(text) = self.take(names) else {
            return Ok(None);
        };
        let value = read(text).map(Some);
        value.ok_or_else(|| format!("\"{text}\" is no {}", names.join(" or ")))
    }

    /// Makes sure that nothing is left.
    fn end(&self) -> Result<(), String> {
        let left = self.0.keys().next();
        left.map_or(Ok(()), |name| {
            Err(format!("\"{name}\" is no option of this type"))
        })
    }

    /// Whether one may write to it, if that is said.
    fn writable(&mut self) -> Result<Option<bool>, String> {
        let read_only = self.read(&["ro", "readonly"], flag)?;
        Ok(self
            .read(&["rw", "readwrite"], flag)?
            .or(read_only.map(|read_only| !read_only)))
    }

    fn owner(&mut self, default: u32) -> Result<Owner, String> {
        let number = |text: &str| text.parse().ok();
        Ok(Owner {
            uid: self.read(&["uid"], number)?.unwrap_or(0),
            gid: self.read(&["gid"], number)?.unwrap_or(0),
            mode: self.read(&["mode"], mode)?.unwrap_or(default),
        })
    }

    fn bind(&mut self) -> Result<MountKind, String> {
        Ok(MountKind::Bind {
            layers: Vec::new(),
            source: self.take(&["source", "src"]).unwrap_or("/").to_owned(),
            writable: self.writable()?.unwrap_or(false),
        })
    }

    fn cache(&mut self, target: Option<&str>) -> Result<MountKind, String> {
        let sharing = self.read(&["sharing"], |text| match text {
            "shared" => Some(Sharing::Shared),
            "private" => Some(Sharing::Private),
            "locked" => Some(Sharing::Locked),
            _ => None,
        })?;
        Ok(MountKind::Cache {
            id: self.take(&["id"]).or(target).unwrap_or_default().to_owned(),
            sharing: sharing.unwrap_or(Sharing::Shared),
            read_only: self.writable()? == Some(false),
            owner: self.owner(0o755)?,
        })
    }

    fn secret(&mut self, target: Option<String>) -> Result<Wanted, String> {
        let last = target.as_deref().and_then(|path| path.rsplit('/').next());
        let id = self.take(&["id"]).or(last);
        let id = id.ok_or("a secret needs an id=NAME")?.to_owned();
        let env = self.take(&["env"]).map(str::to_owned);
        let in_file = env.is_none().then(|| format!("/run/secrets/{id}"));
        let kind = MountKind::Secret {
            id,
            env,
            required: self.read(&["required"], flag)?.unwrap_or(false),
            owner: self.owner(0o400)?,
        };
        let target = target.or(in_file);
        let mount = Mount { target, kind };
        Ok(Wanted { mount, from: None })
    }
}

impl Wanted {
    /// With variables replaced; a target is relative to the directory that `absolute` knows.
    pub(crate) fn mount(
        &self,
        words: Words<'_>,
        absolute: impl Fn(&str) -> String,
    ) -> Result<Mount, String> {
        let mut mount = self.mount.clone();
        if let Some(target) = &mut mount.target {
            *target = absolute(&words.word(target)?);
        }
        match &mut mount.kind {
            MountKind::Bind { source, .. } => *source = words.word(source)?,
            MountKind::Cache { id, .. } | MountKind::Secret { id, .. } => *id = words.word(id)?,
            MountKind::Tmpfs { .. } => {}
        }
        Ok(mount)
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
}

/// A size, with `k`, `m` or `g` for powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let unit = |suffix| text.strip_suffix::<char>(suffix);
    let (digits, unit) = match (unit('k'), unit('m'), unit('g')) {
        (Some(digits), _, _) => (digits, 1 << 10),
        (_, Some(digits), _) => (digits, 1 << 20),
        (_, _, Some(digits)) => (digits, 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: Owner = Owner {
        uid: 0,
        gid: 0,
        mode: 0o755,
    };

    #[test]
    fn mounts_have_their_types_and_defaults() {
        let kind = |text| parse(text).unwrap().mount;
        let cache = kind("type=cache,target=/c,sharing=locked,uid=5,mode=0700");
        let owner = Owner {
            uid: 5,
            gid: 0,
            mode: 0o700,
        };
        let expected = |id: &str, sharing, owner| MountKind::Cache {
            id: id.to_owned(),
            sharing,
            read_only: false,
            owner,
        };
        assert_eq!(cache.kind, expected("/c", Sharing::Locked, owner));
        assert_eq!(
            kind("type=cache,dst=c,id=x").kind,
            expected("x", Sharing::Shared, ROOT)
        );
        let secret = kind("type=secret,id=key,required");
        assert_eq!(secret.target.as_deref(), Some("/run/secrets/key"));
        assert!(matches!(
            secret.kind,
            MountKind::Secret { required: true, .. }
        ));
        assert_eq!(kind("type=secret,id=key,env=KEY").target, None);
        assert_eq!(
            kind("type=tmpfs,target=/t,size=64m").kind,
            MountKind::Tmpfs {
                size: Some(64 << 20)
            }
        );
        let bind = parse("target=/b,from=x,source=/s,rw").unwrap();
        assert!(matches!(
            bind.mount.kind,
            MountKind::Bind { writable: true, .. }
        ));
        assert_eq!(bind.from.as_deref(), Some("x"));
    }

    #[test]
    fn what_is_no_mount_is_refused_with_the_option() {
        for (text, part) in [
            ("type=cache", "needs a target"),
            ("type=ssh", "ssh is not supported"),
            ("type=nfs,target=/x", "there is no type nfs"),
            (
                "type=cache,target=/x,from=y",
                "\"from\" is no option of this type",
            ),
            ("type=bind,target=/x,from=$y", "from takes no variables"),
            ("type=cache,target=/x,sharing=all", "\"all\" is no sharing"),
            ("type=secret", "needs an id"),
            ("target=/x,foo=1", "\"foo\" is no option"),
            ("target=/x,mode=9", "\"mode\" is no option"),
            ("target=", "needs a target"),
            ("type=tmpfs,target=/x,size=z", "\"z\" is no size"),
            ("type=cache,target=/x,mode=9", "\"9\" is no mode"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_mount_or_refused(text in "(type|target|size|mode|id|uid)?=?[a-z0-9=,$]{0,20}") {
            let _ = parse(&text);
        }
    }
}
