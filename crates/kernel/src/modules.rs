//! Kernel modules: where they are, what they need, in which order they load.
//!
//! The order comes from what each module says of itself (`depends=` in its `.modinfo`), not from
//! `modules.dep`: distributions write that file when a package is installed, and ours is only
//! unpacked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use object::{Object, ObjectSection};

use crate::error::{Error, Result, file};

/// No module is larger than this, compressed or not.
const LIMIT: u64 = 256 << 20;

/// A `lib/modules/RELEASE` directory.
#[derive(Debug)]
pub struct Tree {
    directory: PathBuf,
    /// Path below the directory, by name.
    modules: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
}

/// One module, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The uncompressed `.ko`.
    pub content: Vec<u8>,
}

impl Tree {
    /// Reads the lists of a `lib/modules/RELEASE` directory: `modules.order` or `modules.dep`, and
    /// `modules.builtin`.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such directory or list.
    pub fn open(directory: &Path) -> Result<Self> {
        let read = |name| fs::read_to_string(directory.join(name));
        let list = read("modules.order")
            .or_else(|_| read("modules.dep"))
            .map_err(file("read the modules.order of", directory))?;
        let builtin = read("modules.builtin").unwrap_or_default();
        Ok(Self {
            directory: directory.to_owned(),
            modules: paths(&list)
                .map(|path| (name(path), path.to_owned()))
                .collect(),
            builtin: paths(&builtin).map(name).collect(),
        })
    }

    /// The wanted modules and all that they need, in an order in which they load. What is built
    /// into the kernel is left out.
    ///
    /// # Errors
    /// [`Error::NoModule`], [`Error::Cycle`], or as [`Tree::open`] and [`Error::Module`] for the
    /// files.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut order = Order {
            tree: self,
            state: BTreeMap::new(),
            modules: Vec::new(),
        };
        for wanted in wanted {
            order.visit(&name(wanted))?;
        }
        Ok(order.modules)
    }

    fn read(&self, name: &str) -> Result<Module> {
        let relative = self.modules.get(name).ok_or_else(|| Error::NoModule {
            name: name.to_owned(),
            directory: self.directory.clone(),
        })?;
        let base = self.directory.join(relative);
        let (path, bytes) = read_any(&base)?;
        let content = decompress(&path, bytes)?;
        Ok(Module {
            name: name.to_owned(),
            content,
        })
    }
}

/// A depth-first walk; `state` is false while a module's dependencies are visited.
struct Order<'a> {
    tree: &'a Tree,
    state: BTreeMap<String, bool>,
    modules: Vec<Module>,
}

impl Order<'_> {
    fn visit(&mut self, name: &str) -> Result<()> {
        if self.tree.builtin.contains(name) {
            return Ok(());
        }
        match self.state.get(name) {
            Some(true) => return Ok(()),
            Some(false) => return Err(Error::Cycle(name.to_owned())),
            None => {}
        }
        self.state.insert(name.to_owned(), false);
        let module = self.tree.read(name)?;
        for dependency in depends(&module)? {
            self.visit(&dependency)?;
        }
        self.modules.push(module);
        self.state.insert(name.to_owned(), true);
        Ok(())
    }
}

/// The names that the `.modinfo` section of a module says it needs.
///
/// # Errors
/// [`Error::Module`] if it is not an ELF file with such a section.
pub fn depends(module: &Module) -> Result<Vec<String>> {
    let malformed = |reason: String| Error::Module {
        path: PathBuf::from(&module.name),
        reason,
    };
    let elf = object::File::parse(&*module.content).map_err(|e| malformed(e.to_string()))?;
    let section = elf
        .section_by_name(".modinfo")
        .ok_or_else(|| malformed("it has no .modinfo section".into()))?;
    let info = section.data().map_err(|e| malformed(e.to_string()))?;
    Ok(info
        .split(|byte| *byte == 0)
        .filter_map(|field| field.strip_prefix(b"depends="))
        .flat_map(|list| list.split(|byte| *byte == b','))
        .filter(|dependency| !dependency.is_empty())
        .map(|dependency| name(&String::from_utf8_lossy(dependency)))
        .collect())
}

/// The paths of a list with one a line, with or without the dependencies after a colon.
fn paths(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(|line| line.split(':').next().unwrap_or_default().trim())
        .filter(|path| !path.is_empty())
}

/// `kernel/fs/foo-bar.ko.xz` and `foo-bar` are both `foo_bar`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// Reads a module whose file may have another suffix than the list says.
fn read_any(listed: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let uncompressed = match listed.extension() {
        Some(extension) if extension != "ko" => listed.with_extension(""),
        _ => listed.to_owned(),
    };
    for suffix in ["ko", "ko.xz", "ko.zst", "ko.gz"] {
        let path = uncompressed.with_extension(suffix);
        if let Ok(bytes) = fs::read(&path) {
            return Ok((path, bytes));
        }
    }
    fs::read(listed)
        .map(|bytes| (listed.to_owned(), bytes))
        .map_err(file("read the module", listed))
}

fn decompress(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let malformed = |reason: String| Error::Module {
        path: path.to_owned(),
        reason,
    };
    let mut content = Vec::new();
    match bytes.as_slice() {
        [0x7f, b'E', b'L', b'F', ..] => return Ok(bytes),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            lzma_rs::xz_decompress(&mut &*bytes, &mut content)
                .map_err(|error| malformed(format!("{error:?}")))?;
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            ruzstd::decoding::StreamingDecoder::new(&*bytes)
                .map_err(|error| malformed(error.to_string()))?
                .take(LIMIT)
                .read_to_end(&mut content)
                .map_err(|error| malformed(error.to_string()))?;
        }
        _ => {
            return Err(malformed(
                "it is neither an ELF file nor compressed with xz or zstd".into(),
            ));
        }
    }
    Ok(content)
}
