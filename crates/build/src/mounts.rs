//! `RUN --mount`: what a command sees beside its root.

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

/// What the options say, before the type says which of them matter.
#[derive(Default)]
struct Given {
    kind: Option<String>,
    target: Option<String>,
    source: Option<String>,
    from: Option<String>,
    id: Option<String>,
    env: Option<String>,
    sharing: Option<String>,
    writable: Option<bool>,
    required: bool,
    mode: Option<u32>,
    uid: u32,
    gid: u32,
    size: Option<u64>,
}

/// Reads the value of `--mount`.
pub(crate) fn parse(text: &str) -> Result<Wanted, String> {
    let mut given = Given::default();
    for option in text.split(',') {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let name = name.trim().to_ascii_lowercase();
        let set = given.set(&name, value.map(str::trim));
        set.ok_or_else(|| format!("--mount={text}: \"{option}\" is no option of a mount"))?;
    }
    given
        .mount()
        .map_err(|reason| format!("--mount={text}: {reason}"))
}

impl Given {
    fn set(&mut self, name: &str, value: Option<&str>) -> Option<()> {
        let owned = || value.filter(|value| !value.is_empty()).map(str::to_owned);
        let number = || value?.parse().ok();
        match name {
            "type" => self.kind = Some(owned()?),
            "target" | "dst" | "destination" => self.target = Some(owned()?),
            "source" | "src" => self.source = Some(owned()?),
            "from" => self.from = Some(owned()?),
            "id" => self.id = Some(owned()?),
            "env" => self.env = Some(owned()?),
            "sharing" => self.sharing = Some(owned()?),
            "required" => self.required = flag(value)?,
            "rw" | "readwrite" => self.writable = Some(flag(value)?),
            "ro" | "readonly" => self.writable = Some(!flag(value)?),
            "mode" => self.mode = Some(mode(value?)?),
            "uid" => self.uid = number()?,
            "gid" => self.gid = number()?,
            "size" => self.size = Some(bytes(value?)?),
            _ => return None,
        }
        Some(())
    }

    fn mount(self) -> Result<Wanted, String> {
        let from = self.from.clone();
        let kind = self.kind.clone();
        let mount = match kind.as_deref().unwrap_or("bind") {
            "bind" => self.bind()?,
            "cache" => self.cache()?,
            "secret" => self.secret()?,
            "tmpfs" => Mount {
                kind: MountKind::Tmpfs { size: self.size },
                target: Some(self.place()?),
            },
            "ssh" => return Err("ssh is not supported; use a secret with a key".to_owned()),
            other => {
                return Err(format!(
                    "there is no type {other}, but bind, cache, secret and tmpfs"
                ));
            }
        };
        match &mount.kind {
            MountKind::Bind { .. } => {}
            _ if from.is_some() => return Err("from is for binds only".to_owned()),
            _ => {}
        }
        if from.as_ref().is_some_and(|from| from.contains('$')) {
            return Err(
                "from takes no variables; give the image a name with FROM before".to_owned(),
            );
        }
        Ok(Wanted { mount, from })
    }

    fn place(&self) -> Result<String, String> {
        self.target
            .clone()
            .ok_or_else(|| "it needs a target=PATH".to_owned())
    }

    fn owner(&self, mode: u32) -> Owner {
        Owner {
            uid: self.uid,
            gid: self.gid,
            mode: self.mode.unwrap_or(mode),
        }
    }

    fn bind(self) -> Result<Mount, String> {
        Ok(Mount {
            target: Some(self.place()?),
            kind: MountKind::Bind {
                layers: Vec::new(),
                source: self.source.unwrap_or_else(|| "/".to_owned()),
                writable: self.writable.unwrap_or(false),
            },
        })
    }

    fn cache(self) -> Result<Mount, String> {
        let target = self.place()?;
        if self.source.is_some() {
            return Err("source is for binds only".to_owned());
        }
        let sharing = match self.sharing.as_deref() {
            None | Some("shared") => Sharing::Shared,
            Some("private") => Sharing::Private,
            Some("locked") => Sharing::Locked,
            Some(_) => return Err("sharing is shared, private or locked".to_owned()),
        };
        let owner = self.owner(0o755);
        Ok(Mount {
            kind: MountKind::Cache {
                id: self.id.unwrap_or_else(|| target.clone()),
                sharing,
                read_only: self.writable == Some(false),
                owner,
            },
            target: Some(target),
        })
    }

    fn secret(self) -> Result<Mount, String> {
        let last = |path: &String| path.rsplit('/').next().map(str::to_owned);
        let id = self
            .id
            .clone()
            .or_else(|| self.target.as_ref().and_then(last));
        let id = id.ok_or("a secret needs an id=NAME")?;
        let in_file = || self.env.is_none().then(|| format!("/run/secrets/{id}"));
        Ok(Mount {
            target: self.target.clone().or_else(in_file),
            kind: MountKind::Secret {
                env: self.env.clone(),
                required: self.required,
                owner: self.owner(0o400),
                id,
            },
        })
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

fn flag(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("true" | "1") => Some(true),
        Some("false" | "0") => Some(false),
        Some(_) => None,
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
            ("type=cache,target=/x,from=y", "from is for binds only"),
            ("type=bind,target=/x,from=$y", "from takes no variables"),
            ("type=cache,target=/x,sharing=all", "sharing is shared"),
            ("type=secret", "needs an id"),
            ("target=/x,foo=1", "\"foo=1\" is no option"),
            ("target=/x,mode=9", "\"mode=9\" is no option"),
            ("target=", "\"target=\" is no option"),
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
