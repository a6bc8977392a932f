//! The tables themselves.

use policy::{Identity, Namespace, Resource};

#[test]
fn every_component_has_a_table_and_others_have_none() {
    for name in [
        "vmm",
        "dev-fs",
        "dev-vsock",
        "dev-net",
        "dev-block",
        "dev-console",
        "dev-balloon",
        "dialer",
        "unpack",
    ] {
        assert_eq!(policy::component(name).unwrap().component, name);
    }
    assert!(policy::component("nobody").is_none());
    assert_eq!(policy::all().len(), 9);
}

#[test]
fn every_component_has_all_namespaces_but_the_dialer_the_network_s_and_no_core_dump() {
    for policy in policy::all() {
        let flags = policy
            .namespaces
            .iter()
            .fold(0, |flags, line| flags | line.value.flag());
        for namespace in [Namespace::User, Namespace::Mount, Namespace::Pid] {
            assert_ne!(flags & namespace.flag(), 0, "{}", policy.component);
        }
        let shared: Vec<_> = policy.shared.iter().map(|line| line.value).collect();
        let shares = policy.component == "dialer";
        assert_eq!(shared, [Namespace::Net][..usize::from(shares)]);
        assert_eq!(policy.namespaces.len() + shared.len(), 7);
        let core = policy
            .limits
            .iter()
            .find(|line| line.value.resource == Resource::Core);
        assert_eq!(core.unwrap().value.most, 0, "{}", policy.component);
        assert!(policy.landlock_floor.value >= 1);
    }
}

#[test]
fn only_the_file_system_device_keeps_capabilities_users_and_a_piece_of_proc() {
    for policy in policy::all() {
        let special = policy.component == "dev-fs";
        assert_eq!(!policy.capabilities.is_empty(), special);
        assert_eq!(policy.identity.value == Identity::All, special);
        assert_eq!(policy.proc.is_some(), special);
    }
}

#[test]
fn a_policy_prints_every_line_with_its_reason() {
    for policy in policy::all() {
        let text = policy.to_string();
        for call in policy.calls {
            let line = text.lines().find(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some("call") && words.next() == Some(call.value.name)
            });
            assert!(line.unwrap().ends_with(call.why), "{}", call.value.name);
            for alternative in call.value.when {
                assert!(text.contains(alternative), "{alternative}");
            }
        }
        let limits = policy.limits.iter().map(|line| line.why);
        let shared = policy.shared.iter().map(|line| line.why);
        for why in limits.chain(shared) {
            assert!(text.contains(why));
        }
        assert!(text.ends_with("ends the process\n"));
    }
}
