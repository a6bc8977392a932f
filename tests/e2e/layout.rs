//! Images, written as the OCI image specification says and by nothing of ours.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// A layer, being put together.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry of any kind. `owner` is user and group, `link` where a link leads.
    pub(crate) fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        (mode, owner): (u32, u64),
        link: &str,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(content.len().try_into().unwrap());
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    pub(crate) fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, (mode, 0), "", content.as_ref())
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, (mode, 0), "", b"")
    }

    pub(crate) fn symlink(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, path, (0o777, 0), to, b"")
    }

    /// Removes a path of a layer below.
    pub(crate) fn removes(self, path: &str) -> Self {
        let path = Path::new(path);
        let name = path.file_name().unwrap().to_str().unwrap();
        let marker = path.with_file_name(format!(".wh.{name}"));
        self.file(marker.to_str().unwrap(), 0, "")
    }

    /// A busybox with a few of its applets, and what programs expect of a root.
    pub(crate) fn busybox() -> Self {
        let installed = ["/bin/busybox", "/usr/bin/busybox"];
        let busybox = installed.iter().find_map(|path| fs::read(path).ok());
        let busybox = busybox.expect("the package busybox-static is installed");
        let mut layer = Self::new();
        for directory in ["bin", "etc", "root", "tmp", "var"] {
            layer = layer.directory(directory, 0o755);
        }
        layer = layer.file("bin/busybox", 0o755, busybox);
        for applet in [
            "sh", "cat", "id", "ls", "stat", "env", "pwd", "touch", "test",
        ] {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        layer.file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/root:/bin/sh\nsomebody:x:1000:1000::/home:/bin/sh\n",
        )
    }
}

/// A directory with an image.
pub(crate) struct Layout {
    directory: TempDir,
}

impl Layout {
    /// `config` is what the image specification calls so within an image's configuration.
    pub(crate) fn new(layers: impl IntoIterator<Item = Layer>, config: &Value) -> Self {
        Self::of(layers, config, "amd64")
    }

    pub(crate) fn of(
        layers: impl IntoIterator<Item = Layer>,
        config: &Value,
        architecture: &str,
    ) -> Self {
        let layout = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in layers {
            let archive = layer.0.into_inner().unwrap();
            diff_ids.push(digest(&archive));
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&archive).unwrap();
            let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
            descriptors.push(layout.blob(kind, &gzip.finish().unwrap()));
        }
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let kind = "application/vnd.oci.image.config.v1+json";
        let config = layout.blob(kind, config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": descriptors,
        });
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = layout.blob(kind, manifest.to_string().as_bytes());
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        layout.write("index.json", index.to_string().as_bytes());
        layout.write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        layout
    }

    /// What `crumble run` calls it.
    pub(crate) fn name(&self) -> String {
        format!("oci:{}", self.directory.path().display())
    }

    /// The largest of its blobs, which is a layer.
    pub(crate) fn largest_blob(&self) -> PathBuf {
        let blobs = fs::read_dir(self.directory.path().join("blobs/sha256")).unwrap();
        let paths = blobs.map(|entry| entry.unwrap().path());
        paths
            .max_by_key(|path| fs::metadata(path).unwrap().len())
            .unwrap()
    }

    /// Writes a blob and returns its descriptor.
    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        let path = format!("blobs/{}", digest.replace(':', "/"));
        self.write(&path, bytes);
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}
