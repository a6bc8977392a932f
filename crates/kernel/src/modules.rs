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

    /// Whether there is a module of this name, with underscores.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.modules.contains_key(name)
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

/// What a signed module ends with (linux/module_signature.h).
const SIGNED: &[u8] = b"~Module signature appended~\n";

impl Module {
    /// Takes the signature off: the signature's bytes, 12 bytes that end in their big-endian
    /// count, and the marker. A module without one, or with a damaged one, stays as it is.
    pub fn remove_signature(&mut self) {
        let unsigned = self.content.strip_suffix(SIGNED).and_then(|rest| {
            let (rest, count) = rest.split_last_chunk::<4>()?;
            let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
            rest.len().checked_sub(8)?.checked_sub(count)
        });
        if let Some(length) = unsigned {
            self.content.truncate(length);
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The smallest module: an ELF file of three sections, `.modinfo` and the names among them.
    fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let info_at = 64;
        let names_at = usize::strict_add(info_at, info.len());
        let sections_at = names_at.strict_add(names.len());
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [1u16, 62] {
            elf.extend(half.to_le_bytes());
        }
        elf.extend(1u32.to_le_bytes());
        for long in [0, 0, sections_at] {
            elf.extend((long as u64).to_le_bytes());
        }
        elf.extend(0u32.to_le_bytes());
        for half in [64u16, 0, 0, 64, 3, 2] {
            elf.extend(half.to_le_bytes());
        }
        elf.extend_from_slice(info.as_bytes());
        elf.extend_from_slice(names);
        elf.extend([0; 64]);
        for (name, kind, at, size) in [
            (1u32, 1u32, info_at, info.len()),
            (10, 3, names_at, names.len()),
        ] {
            elf.extend(name.to_le_bytes());
            elf.extend(kind.to_le_bytes());
            for long in [0, 0, at, size, 0, 1, 0] {
                elf.extend((long as u64).to_le_bytes());
            }
        }
        elf
    }

    fn tree(files: &[(&str, &str)], builtin: &str) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        let mut list = String::new();
        for (path, depends) in files {
            let file = directory.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, module(depends)).unwrap();
            list.push_str(path);
            list.push('\n');
        }
        fs::write(directory.path().join("modules.order"), list).unwrap();
        fs::write(directory.path().join("modules.builtin"), builtin).unwrap();
        let tree = Tree::open(directory.path()).unwrap();
        (directory, tree)
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| &*module.name).collect()
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let files = [
            ("kernel/a/top-one.ko", "mid,low"),
            ("kernel/a/mid.ko", "low,inside"),
            ("kernel/b/low.ko", ""),
            ("kernel/b/unused.ko", "low"),
        ];
        let (_directory, tree) = tree(&files, "kernel/c/inside.ko\n");
        let order = tree.load_order(&["top_one", "mid", "inside"]).unwrap();
        assert_eq!(names(&order), ["low", "mid", "top_one"]);
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let (_directory, tree) = tree(&[("kernel/a.ko", "missing")], "");
        let error = tree.load_order(&["a"]).unwrap_err();
        assert!(matches!(error, Error::NoModule { name, .. } if name == "missing"));
    }

    #[test]
    fn modules_that_need_each_other_are_refused() {
        let (_directory, tree) = tree(&[("a.ko", "b"), ("b.ko", "a")], "");
        assert!(matches!(tree.load_order(&["a"]), Err(Error::Cycle(_))));
    }

    #[test]
    fn a_list_with_dependencies_and_another_suffix_serves_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(
            path.join("modules.dep"),
            "kernel/a.ko.xz: kernel/b.ko.xz\nkernel/b.ko.xz:\n",
        )
        .unwrap();
        fs::create_dir(path.join("kernel")).unwrap();
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut &*module("b"), &mut packed).unwrap();
        fs::write(path.join("kernel/a.ko.xz"), packed).unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let packed = ruzstd::encoding::compress_to_vec(&*module(""), level);
        fs::write(path.join("kernel/b.ko.zst"), packed).unwrap();
        let order = Tree::open(path).unwrap().load_order(&["a"]).unwrap();
        assert_eq!(names(&order), ["b", "a"]);
        assert_eq!(order[0].content, module(""));
        assert_eq!(order[1].content, module("b"));
    }

    fn without_signature(content: Vec<u8>) -> Vec<u8> {
        let name = "x".into();
        let mut module = Module { name, content };
        module.remove_signature();
        module.content
    }

    #[test]
    fn a_signature_is_removed_whole_and_nothing_else_is() {
        let signed = |length: u32| {
            let trailer = [&[0; 8][..], &length.to_be_bytes(), SIGNED].concat();
            [module("a").as_slice(), b"signature", &trailer].concat()
        };
        assert_eq!(without_signature(signed(9)), module("a"));
        assert_eq!(without_signature(module("a")), module("a"));
        assert_eq!(without_signature(signed(u32::MAX)), signed(u32::MAX));
        assert_eq!(without_signature(SIGNED.to_vec()), SIGNED);
    }

    #[test]
    fn a_directory_that_is_none_is_an_error() {
        assert!(matches!(
            Tree::open(Path::new("/nowhere")),
            Err(Error::File { .. })
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let whole = [module("a").as_slice(), &content].concat();
            for content in [content.clone(), [b"\x7fELF", &*content].concat(), whole] {
                let _ = depends(&Module { name: "x".into(), content: content.clone() });
                let _ = decompress(Path::new("x"), content);
            }
        }

        #[test]
        fn arbitrary_lists_never_panic(list in "[a-z/.:\n ]{0,60}") {
            for path in paths(&list) {
                name(path);
            }
        }
    }
}
