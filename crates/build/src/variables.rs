//! `ARG`: what is given to the build, what the file declares, and what is always there.

use std::collections::BTreeMap;

use crate::evaluate::Options;

/// Arguments that commands see without a declaration, in both cases (Dockerfile reference, "Predefined
/// ARGs"). They say how the host reaches the network, and so are no part of any key.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SOCKS_PROXY",
];

fn is_proxy(name: &str) -> bool {
    let known = |proxy: &&str| **proxy == *name || proxy.to_ascii_lowercase() == name;
    PROXIES.iter().any(known)
}

/// The arguments of a build.
#[derive(Debug)]
pub(crate) struct Arguments {
    given: BTreeMap<String, String>,
    /// What is declared before the first `FROM`, and what describes the platforms.
    global: BTreeMap<String, String>,
}

impl Arguments {
    pub(crate) fn new(options: &Options) -> Self {
        let mut global = BTreeMap::new();
        for (side, platform) in [
            ("TARGET", &options.platform),
            ("BUILD", &options.build_platform),
        ] {
            let mut parts = platform.split('/');
            for part in ["OS", "ARCH", "VARIANT"] {
                let value = parts.next().unwrap_or_default();
                global.insert(format!("{side}{part}"), value.to_owned());
            }
            global.insert(format!("{side}PLATFORM"), platform.clone());
        }
        let target = options.target.as_deref().unwrap_or("default");
        global.insert("TARGETSTAGE".to_owned(), target.to_owned());
        Self {
            given: options.arguments.clone(),
            global,
        }
    }

    /// Takes an `ARG` from before the first `FROM`.
    pub(crate) fn declare(&mut self, name: &str, default: Option<String>) {
        if let Some(value) = self.given.get(name).cloned().or(default) {
            self.global.insert(name.to_owned(), value);
        }
    }

    /// What a variable stands for in `FROM`.
    pub(crate) fn global(&self, name: &str) -> Option<String> {
        self.global.get(name).cloned()
    }

    /// What an `ARG` in a stage stands for.
    pub(crate) fn in_stage(&self, name: &str, default: Option<String>) -> Option<String> {
        let given = self.given.get(name).cloned();
        given.or(default).or_else(|| self.global(name))
    }

    /// What commands see of the proxies that are not set otherwise, each `NAME=VALUE`.
    pub(crate) fn proxies(&self, is_set: impl Fn(&str) -> bool) -> Vec<String> {
        let free = |name: &str| is_proxy(name) && !is_set(name);
        let proxies = self.given.iter().filter(|(name, _)| free(name));
        proxies
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    /// What was given and is of no use, since no `ARG` has its name.
    pub(crate) fn unused(&self, is_declared: impl Fn(&str) -> bool) -> Vec<&str> {
        let names = self.given.keys().map(String::as_str);
        let known =
            |name: &&str| is_proxy(name) || self.global.contains_key(*name) || is_declared(name);
        names.filter(|name| !known(name)).collect()
    }
}
