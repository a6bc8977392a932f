//! The crates' dependencies against the table.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    command::{cargo, output},
    error::Result,
    licences,
    metadata::{Metadata, Package},
    table::{BANNED, DUPLICATES, EXPOSED, HOUSE, LICENCES, TOLERATED},
};

/// Prints every difference; 0 if there is none.
pub(crate) fn check() -> Result {
    let metadata = Metadata::read()?;
    let mut faults = upward();
    faults.extend(edges(&metadata));
    faults.extend(licence_faults(&metadata));
    faults.extend(duplicate_faults(&metadata));
    for name in EXPOSED.iter().filter(|name| metadata.is_ours(name)) {
        faults.extend(banned(name)?);
    }
    for fault in &faults {
        println!("{fault}");
    }
    if faults.is_empty() {
        println!(
            "{} crates as the table says, {} packages with licences that are allowed",
            metadata.ours().count(),
            metadata.packages.len()
        );
    }
    Ok(u8::from(!faults.is_empty()))
}

/// Edges between our crates that the table does not have.
fn edges(metadata: &Metadata) -> Vec<String> {
    metadata
        .ours()
        .flat_map(|package| package_edges(metadata, package))
        .collect()
}

fn package_edges(metadata: &Metadata, package: &Package) -> Vec<String> {
    let Some(row) = HOUSE.iter().find(|row| row.name == package.name) else {
        return vec![format!(
            "{}: not in the table of crates/xtask/src/table.rs",
            package.name
        )];
    };
    let ours = package
        .dependencies
        .iter()
        .filter(|dependency| metadata.is_ours(&dependency.name));
    ours.filter(|dependency| {
        let name = dependency.name.as_str();
        let testing = dependency.kind.as_deref() == Some("dev");
        // What it is built with it may be tested with.
        !(row.uses.contains(&name) || testing && row.tests.contains(&name))
    })
    .map(|dependency| {
        let kind = dependency.kind.as_deref().unwrap_or("normal");
        format!(
            "{} -> {} ({kind}): no such edge in the table",
            package.name, dependency.name
        )
    })
    .collect()
}

fn licence_faults(metadata: &Metadata) -> Vec<String> {
    let terms = |package: &Package| package.license.clone().unwrap_or_default();
    metadata
        .packages
        .iter()
        .filter(|package| !licences::met(&terms(package), LICENCES))
        .map(|package| format!("{}: licence `{}`", package.name, terms(package)))
        .collect()
}

/// Packages with several versions and no reason, and reasons without such a package.
fn duplicate_faults(metadata: &Metadata) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &metadata.packages {
        let known = versions.entry(&package.name).or_default();
        known.insert(&package.version);
    }
    versions.retain(|_, known| known.len() > 1);
    let excused = |name: &str| DUPLICATES.iter().any(|(excused, _)| *excused == name);
    let unexpected = versions
        .iter()
        .filter(|(name, _)| !excused(name))
        .map(|(name, known)| format!("{name}: several versions: {known:?}"));
    let idle = DUPLICATES
        .iter()
        .filter(|(name, _)| !versions.contains_key(name))
        .map(|(name, _)| format!("{name}: an exception that nothing needs any more"));
    unexpected.chain(idle).collect()
}

/// Banned crates in one of ours.
fn banned(name: &str) -> Result<Vec<String>> {
    let tree = output(&mut cargo(&[
        "tree",
        "--quiet",
        "--package",
        name,
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let found: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|dependency| BANNED.contains(dependency) && !tolerated(name, dependency))
        .collect();
    Ok(found
        .into_iter()
        .map(|dependency| format!("{name}: contains {dependency}, which runs against a guest"))
        .collect())
}

fn tolerated(name: &str, dependency: &str) -> bool {
    TOLERATED
        .iter()
        .any(|(in_crate, banned, _)| *in_crate == name && *banned == dependency)
}

/// Edges of the table itself that point up.
fn upward() -> Vec<String> {
    let level = |name: &str| {
        HOUSE
            .iter()
            .find(|row| row.name == name)
            .map(|row| row.level)
    };
    let edges = HOUSE.iter().flat_map(|row| {
        let used = row.uses.iter().chain(row.tests);
        used.map(move |name| (row, *name))
    });
    edges
        .filter(|(row, name)| level(name).is_none_or(|level| level > row.level))
        .map(|(row, name)| format!("{} -> {name}: the table points up", row.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, version: &str, uses: &[(&str, Option<&str>)]) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            license: Some("MIT".into()),
            source: None,
            manifest_path: String::new(),
            dependencies: uses
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).into(),
                    kind: kind.map(Into::into),
                })
                .collect(),
        }
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_a_fault() {
        let metadata = Metadata {
            packages: vec![
                package("wire", "1", &[]),
                package("vq-driver", "1", &[]),
                package("agent", "1", &[("wire", None), ("vq-driver", None)]),
                package("device", "1", &[("vq-driver", Some("dev"))]),
                package("surprise", "1", &[]),
            ],
        };
        let faults = edges(&metadata);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("agent -> vq-driver (normal)"));
        assert!(faults[1].starts_with("surprise: not in the table"));
    }

    #[test]
    fn the_table_never_points_up() {
        assert_eq!(upward(), Vec::<String>::new());
    }

    #[test]
    fn a_test_dependency_at_run_time_is_a_fault() {
        let metadata = Metadata {
            packages: vec![
                package("vq-driver", "1", &[]),
                package("device", "1", &[("vq-driver", None)]),
            ],
        };
        assert_eq!(edges(&metadata).len(), 1);
    }

    #[test]
    fn a_second_version_needs_a_reason() {
        let metadata = Metadata {
            packages: vec![package("x", "1", &[]), package("x", "2", &[])],
        };
        let faults = duplicate_faults(&metadata);
        assert!(faults[0].starts_with("x: several versions"));
        assert_eq!(faults.len(), 1 + DUPLICATES.len());
    }
}
