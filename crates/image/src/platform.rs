//! Which machine an image is for.

use std::{env::consts, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, manifest::Descriptor};

/// An operating system and a CPU, in the words of OCI: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64` and so on.
    #[serde(default)]
    pub architecture: String,
    /// `v7` and so on, where the architecture has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on this host's CPU.
    #[must_use]
    pub fn of_host() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture(consts::ARCH).to_owned(),
            variant: None,
        }
    }

    /// How well an image for `offered` runs on this: the greater the better, `None` not at all. A CPU
    /// runs what was made for an older variant of it.
    pub(crate) fn suits(&self, offered: &Self) -> Option<u32> {
        let same = self.os == offered.os
            && architecture(&self.architecture) == architecture(&offered.architecture);
        let offered_variant = offered.level()?;
        (same && offered_variant <= self.level()?).then_some(offered_variant)
    }

    /// The number of the variant; the one that an architecture without one means.
    fn level(&self) -> Option<u32> {
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => variant.strip_prefix('v')?.parse().ok(),
            _ => Some(match architecture(&self.architecture) {
                "arm64" => 8,
                "arm" => 7,
                _ => 1,
            }),
        }
    }

    /// The best of what an index offers.
    pub(crate) fn choose<'a>(&self, offers: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let fit = |offer: &'a Descriptor| Some((self.suits(offer.platform.as_ref()?)?, offer));
        // The first of those that are equally good.
        offers
            .iter()
            .rev()
            .filter_map(fit)
            .max_by_key(|(level, _)| *level)
            .map(|(_, offer)| offer)
    }
}

/// The name that OCI has for an architecture that has several.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" | "i686" => "386",
        other => other,
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let sound =
            |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
        let parts: Option<Vec<&str>> = text
            .split('/')
            .map(|part| Some(part).filter(sound))
            .collect();
        let (os, cpu, variant) = match parts.as_deref() {
            Some([os, cpu]) => (*os, *cpu, None),
            Some([os, cpu, variant]) => (*os, *cpu, Some((*variant).to_owned())),
            _ => return Err(Error::Platform(text.to_owned())),
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture(cpu).to_owned(),
            variant,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wanted: &str, offers: &[&str]) -> Option<u64> {
        let offers: Vec<Descriptor> = (0..)
            .zip(offers)
            .map(|(size, offer)| Descriptor {
                platform: Some(offer.parse().unwrap()),
                ..Descriptor::new("", crate::Digest::of(b""), size)
            })
            .collect();
        let wanted: Platform = wanted.parse().unwrap();
        wanted.choose(&offers).map(|offer| offer.size)
    }

    #[test]
    fn the_image_for_the_same_system_and_cpu_is_chosen() {
        let offers = [
            "linux/386",
            "linux/arm64/v8",
            "windows/amd64",
            "linux/amd64",
        ];
        assert_eq!(chosen("linux/amd64", &offers), Some(3));
        assert_eq!(chosen("linux/x86_64", &offers), Some(3));
        assert_eq!(chosen("linux/arm64", &offers), Some(1));
        assert_eq!(chosen("linux/s390x", &offers), None);
        assert_eq!(
            chosen("linux/amd64", &["linux/amd64", "linux/amd64"]),
            Some(0)
        );
    }

    #[test]
    fn of_the_variants_the_newest_that_runs_is_chosen() {
        let arm = ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"];
        assert_eq!(chosen("linux/arm/v6", &arm), Some(1));
        assert_eq!(chosen("linux/arm", &arm), Some(2));
        assert_eq!(chosen("linux/amd64", &["linux/amd64/v3"]), None);
        assert_eq!(
            chosen("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2"]),
            Some(1)
        );
    }

    #[test]
    fn what_is_no_platform_is_refused_with_an_example() {
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/v7/x",
            "linux/a b",
        ] {
            let message = bad.parse::<Platform>().unwrap_err().to_string();
            assert!(message.contains("linux/arm64"), "{message}");
        }
        assert_eq!(
            "linux/aarch64".parse::<Platform>().unwrap().to_string(),
            "linux/arm64"
        );
    }
}
