//! What cargo knows about the workspace.

use serde::Deserialize;
use testbed::TARGET;

use crate::{
    command::{cargo, output},
    error::Result,
};

/// All packages that are built for the product's target.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression.
    pub(crate) license: Option<String>,
    /// None if it is ours.
    pub(crate) source: Option<String>,
    pub(crate) manifest_path: String,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// None: at run time; else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Metadata {
    pub(crate) fn read() -> Result<Self> {
        let text = output(&mut cargo(&[
            "metadata",
            "--quiet",
            "--format-version=1",
            "--filter-platform",
            TARGET,
        ]))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The packages of this workspace.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| package.source.is_none())
    }

    /// Whether a package of this name is of this workspace.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        self.ours().any(|package| package.name == name)
    }
}
