//! The crates whose code is in the program: for scanners as a section of the program, and as an SBOM
//! (cyclonedx.org/docs/1.5/json).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use anyhow::Context as _;
use auditable_serde::{DependencyKind, Source, VersionInfo};
use cargo_metadata::{DependencyKind as Kind, Metadata, MetadataCommand, Node, Package, PackageId};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};

use super::read;
use crate::{licences, shell};

/// The crate of the program.
const PROGRAM: &str = "svclb-agent";
/// The crate of the eBPF programs, which are data in the program: cargo does not link it.
const HOOKS: &str = "svclb-ebpf";

/// A crate in the program.
struct Crate {
    package: Package,
    /// SHA-256 of its archive in the registry, which a crate of the workspace does not have.
    checksum: Option<String>,
    /// Places of its dependencies among the crates.
    dependencies: Vec<usize>,
}

/// The crates in a program, in order of name and version.
pub(crate) struct Contents(Vec<Crate>);

impl Contents {
    /// Describes the `linked` crates of the program for a target, and adds those of the eBPF programs.
    pub(super) fn find(target: &str, mut linked: BTreeSet<PackageId>) -> anyhow::Result<Self> {
        let mut command = MetadataCommand::new();
        command.current_dir(shell::root());
        command.other_options(["--locked", "--filter-platform", target].map(str::to_owned));
        let metadata = command.exec()?;
        let hooks = member(&metadata, HOOKS)?.id.clone();
        let nodes = &metadata.resolve.as_ref().context("cargo resolves dependencies")?.nodes;
        let nodes: BTreeMap<&PackageId, &Node> = nodes.iter().map(|it| (&it.id, it)).collect();
        reach(&hooks, &nodes, &metadata, &mut linked);

        let checksums = checksums(&String::from_utf8(read(&shell::root().join("Cargo.lock"))?)?);
        let mut packages: Vec<&Package> =
            metadata.packages.iter().filter(|package| linked.contains(&package.id)).collect();
        packages.sort_by_key(|package| (&package.name, &package.version));
        let places: BTreeMap<&PackageId, usize> =
            packages.iter().enumerate().map(|(place, package)| (&package.id, place)).collect();
        let dependencies = |package: &Package| {
            let linked = nodes.get(&package.id).map(|node| normal(node)).unwrap_or_default();
            let mut all: Vec<usize> =
                linked.iter().filter_map(|id| places.get(id)).copied().collect();
            if package.name == PROGRAM {
                all.extend(places.get(&hooks));
            }
            all.sort_unstable();
            all
        };
        let crates = packages.iter().map(|package| Crate {
            checksum: checksums.get(&key(&package.name, &package.version)).cloned(),
            dependencies: dependencies(package),
            package: (*package).clone(),
        });
        Ok(Self(crates.collect()))
    }

    /// The crate of the program.
    pub(crate) fn program(&self) -> anyhow::Result<&Package> {
        let mut packages = self.0.iter().map(|it| &it.package);
        packages.find(|package| package.name == PROGRAM).context("the program has its own crate")
    }

    /// The content of the section that scanners read.
    pub(super) fn section(&self) -> anyhow::Result<Vec<u8>> {
        let packages = self.0.iter().map(|it| auditable_serde::Package {
            name: it.package.name.to_string(),
            version: it.package.version.clone(),
            source: if it.checksum.is_some() { Source::CratesIo } else { Source::Local },
            kind: DependencyKind::Runtime,
            dependencies: it.dependencies.clone(),
            root: it.package.name == PROGRAM,
        });
        let list = VersionInfo { packages: packages.collect(), format: 0 };
        let mut compressed = ZlibEncoder::new(Vec::new(), Compression::best());
        compressed.write_all(&serde_json::to_vec(&list)?)?;
        Ok(compressed.finish()?)
    }

    /// The SBOM. It has no time and no number of its own, so that builds are reproducible.
    pub(crate) fn sbom(&self) -> anyhow::Result<Vec<u8>> {
        let mut all = self.0.iter().map(component).collect::<anyhow::Result<Vec<Value>>>()?;
        let place = self.0.iter().position(|it| it.package.name == PROGRAM);
        let mut program = all.remove(place.context("the program has its own crate")?);
        program["type"] = json!("application");
        program["name"] = json!("svclb");
        let dependencies = self.0.iter().map(|it| {
            let needed = it.dependencies.iter().map(|place| reference(&self.0[*place].package));
            json!({"ref": reference(&it.package), "dependsOn": needed.collect::<Vec<String>>()})
        });
        let sbom = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": program},
            "components": all,
            "dependencies": dependencies.collect::<Vec<Value>>(),
        });
        Ok(serde_json::to_vec_pretty(&sbom)?)
    }
}

/// Describes a crate in the SBOM.
fn component(it: &Crate) -> anyhow::Result<Value> {
    let package = &it.package;
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
        "licenses": [{"expression": licences::expression(package)?}],
    });
    if let Some(description) = &package.description {
        component["description"] =
            json!(description.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    if let Some(checksum) = &it.checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        component["purl"] = json!(format!("pkg:cargo/{}@{}", package.name, encode(package)));
    }
    Ok(component)
}

/// Returns the version with the only character that has another meaning in a package URL escaped.
fn encode(package: &Package) -> String {
    package.version.to_string().replace('+', "%2B")
}

/// Names a crate within the SBOM.
fn reference(package: &Package) -> String {
    format!("{}@{}", package.name, package.version)
}

fn member<'a>(metadata: &'a Metadata, name: &str) -> anyhow::Result<&'a Package> {
    let mut members = metadata.workspace_packages().into_iter();
    members
        .find(|package| package.name == name)
        .with_context(|| format!("there is no crate {name}"))
}

/// The dependencies of a crate that are linked with it.
fn normal(node: &Node) -> Vec<&PackageId> {
    let is_normal = |kind: &cargo_metadata::DepKindInfo| kind.kind == Kind::Normal;
    let dependencies = node.deps.iter().filter(|it| it.dep_kinds.iter().any(is_normal));
    dependencies.map(|dependency| &dependency.pkg).collect()
}

/// Adds a crate, and all that is linked with it.
fn reach(
    from: &PackageId,
    nodes: &BTreeMap<&PackageId, &Node>,
    metadata: &Metadata,
    reached: &mut BTreeSet<PackageId>,
) {
    let is_macro = metadata[from].targets.iter().any(cargo_metadata::Target::is_proc_macro);
    if is_macro || !reached.insert(from.clone()) {
        return;
    }
    for dependency in nodes.get(from).map(|node| normal(node)).unwrap_or_default() {
        reach(dependency, nodes, metadata, reached);
    }
}

fn key(name: &str, version: &dyn ToString) -> String {
    format!("{name} {}", version.to_string())
}

/// Reads the checksums of all packages in a Cargo.lock, by name and version.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let packages = lock.split("[[package]]").filter_map(|package| {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(" = \"")?.strip_suffix('"')
        };
        let checksum = field("checksum")?.to_owned();
        Some((key(field("name")?, &field("version")?), checksum))
    });
    packages.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_from_the_lock() {
        let lock = "version = 4\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n\n\
                    [[package]]\nname = \"libc\"\nversion = \"0.2.1\"\n\
                    source = \"registry\"\nchecksum = \"0a1b\"\ndependencies = [\n \"name\",\n]\n";
        let expected = BTreeMap::from([("libc 0.2.1".to_owned(), "0a1b".to_owned())]);
        assert_eq!(checksums(lock), expected);
    }
}
