//! SSH, by OpenSSH.

use std::fs;

use crate::{lab::Lab, programs};

crate::tests![a_command_and_a_file_of_20_mb_pass_over_ssh];

fn a_command_and_a_file_of_20_mb_pass_over_ssh() {
    let lab = Lab::new();
    let (_server, settings) = programs::sshd(&lab);
    for host in [Lab::V4, Lab::V6] {
        let said = lab.guest.sh(&format!(
            "ssh -F {settings} {host} 'echo $((6 * 7)); cat' </dev/null"
        ));
        assert_eq!(said, "42\n");
    }
    let local = lab.directory().join("file");
    let sum = programs::file(&lab.guest, &local, 20);
    let (local, away, back) = (
        local.display(),
        lab.directory().join("away"),
        lab.directory().join("back"),
    );
    let (away, back) = (away.display(), back.display());
    let host = format!("[{}]", Lab::V6);
    lab.guest
        .sh(&format!("scp -q -F {settings} {local} {}:{away}", Lab::V4));
    lab.guest
        .sh(&format!("scp -q -F {settings} {host}:{away} {back}"));
    assert_eq!(lab.guest.sh(&format!("sha256sum < {back}")), sum);
    assert_eq!(
        fs::metadata(lab.directory().join("back")).unwrap().len(),
        20 << 20
    );
}
