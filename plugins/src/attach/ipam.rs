//! ADD, DEL, CHECK, GC and STATUS of IPAM plugins.

use cni::conf::Attachment;
use cni::error::{Error, code};
use cni::plugin::{Plugin, Request};
use cni::result::AddResult;

use super::runtimes;
use crate::netns;

/// The part of an IPAM plugin that is particular to it. It does not decide when addresses are reserved or released.
pub trait Ipam: Sync {
    /// The checked configuration.
    type Conf;

    /// The plugin's `type` in `ipam`.
    fn name(&self) -> &'static str;

    /// Checks the configuration of a request, and reports all mistakes in one error. DEL and GC need no
    /// configuration.
    fn load(&self, request: &Request<'_>) -> Result<Self::Conf, Error>;

    /// Reserves everything that the configuration requests for the attachment, or nothing. Existing reservations of
    /// the attachment stay.
    fn reserve(&self, conf: &Self::Conf, request: &Request<'_>) -> Result<AddResult, Error>;

    /// Releases everything that the attachment has. Continues after a failure; having nothing is a success.
    fn release(&self, request: &Request<'_>) -> Result<(), Error>;

    /// Releases what other attachments than the `valid` ones have in the network. Continues after a failure.
    fn retain(&self, request: &Request<'_>, valid: &[Attachment]) -> Result<(), Error>;

    /// The parts of ADD's result that are not reserved for the attachment, for CHECK.
    fn differences(&self, conf: &Self::Conf, request: &Request<'_>) -> Result<Vec<String>, Error>;

    /// The reasons why an ADD would fail, for STATUS.
    fn obstacles(&self, conf: &Self::Conf, request: &Request<'_>) -> Result<Vec<String>, Error>;
}

/// An [`Ipam`] as a plugin.
pub struct Addresses<I>(pub I);

impl<I: Ipam> Plugin for Addresses<I> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn admit(&self, request: &Request<'_>) -> Result<(), Error> {
        netns::admit(request)
    }

    fn add(&self, request: &Request<'_>) -> Result<AddResult, Error> {
        self.0.reserve(&self.0.load(request)?, request)
    }

    fn del(&self, request: &Request<'_>) -> Result<(), Error> {
        self.0.release(request)
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let found = self.0.differences(&self.0.load(request)?, request)?;
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::internal(format_args!("{}: {}", self.name(), found.join("; "))))
    }

    fn gc(&self, request: &Request<'_>) -> Result<(), Error> {
        self.0.retain(request, &runtimes::kept(request))
    }

    fn status(&self, request: &Request<'_>) -> Result<(), Error> {
        let conf = self.0.load(request)?;
        let unavailable = |error: Error| Error { code: code::NOT_AVAILABLE, ..error };
        let found = self.0.obstacles(&conf, request).map_err(unavailable)?;
        if found.is_empty() { Ok(()) } else { Err(Error::new(code::NOT_AVAILABLE, found.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local!(static CALLS: RefCell<Vec<&'static str>> = RefCell::default());

    fn called(name: &'static str) {
        CALLS.with_borrow_mut(|calls| calls.push(name));
    }

    /// An IPAM plugin whose configuration is `"good": true`. Its address exists while `"there"` is true.
    struct Fixed;

    impl Fixed {
        fn says(request: &Request<'_>, key: &str) -> bool {
            request.conf.tree().get(key).and_then(gojson::Json::as_bool).unwrap_or_default()
        }
    }

    impl Ipam for Fixed {
        type Conf = ();

        fn name(&self) -> &'static str {
            "fixed"
        }

        fn load(&self, request: &Request<'_>) -> Result<(), Error> {
            called("load");
            if Self::says(request, "good") { Ok(()) } else { Err(Error::config("no good")) }
        }

        fn reserve(&self, _conf: &(), _request: &Request<'_>) -> Result<AddResult, Error> {
            called("reserve");
            Ok(AddResult::default())
        }

        fn release(&self, _request: &Request<'_>) -> Result<(), Error> {
            called("release");
            Ok(())
        }

        fn retain(&self, _request: &Request<'_>, valid: &[Attachment]) -> Result<(), Error> {
            called(if valid.is_empty() { "retain none" } else { "retain some" });
            Ok(())
        }

        fn differences(&self, _conf: &(), request: &Request<'_>) -> Result<Vec<String>, Error> {
            Ok(if Self::says(request, "there") { vec![] } else { vec!["a is gone".into(), "b is gone".into()] })
        }

        fn obstacles(&self, _conf: &(), request: &Request<'_>) -> Result<Vec<String>, Error> {
            if Self::says(request, "there") { Ok(vec!["full".into()]) } else { Err(Error::new(code::IO, "no disk")) }
        }
    }

    /// The code and message of the result, 0 for a success; and the functions that were called.
    fn run(command: &str, rest: &str) -> (u32, String, Vec<&'static str>) {
        let document = format!(r#"{{"cniVersion":"1.1.0","name":"net"{rest}}}"#);
        let vars = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => "c1",
                "CNI_NETNS" => "/no/such/netns",
                "CNI_IFNAME" => "eth0",
                "CNI_PATH" => "/nowhere",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = cni::plugin::serve(&Addresses(Fixed), &[], &vars, &mut document.as_bytes(), &mut out, &mut err);
        let error: Error = if status == 0 { Error::new(0, "") } else { gojson::decode(&out).unwrap() };
        (error.code, error.msg, CALLS.take())
    }

    #[test]
    fn del_and_gc_need_no_valid_configuration() {
        assert_eq!(run("ADD", r#","good":true"#).2, ["load", "reserve"]);
        assert_eq!(run("ADD", ""), (7, "no good".to_owned(), vec!["load"]));
        assert_eq!(run("DEL", ""), (0, String::new(), vec!["release"]));
        let nobody = r#","cni.dev/valid-attachments":[]"#;
        assert_eq!(run("GC", nobody), (0, String::new(), vec!["retain none"]));
        let somebody = r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#;
        assert_eq!(run("GC", somebody), (0, String::new(), vec!["retain some"]));
        assert_eq!(run("GC", ""), (0, String::new(), vec![]), "nothing is known of what is valid");
    }

    #[test]
    fn check_lists_every_difference_and_status_says_why_not() {
        let said = |command, rest| {
            let (code, msg, _) = run(command, rest);
            (code, msg)
        };
        assert_eq!(said("CHECK", r#","good":true,"there":true"#), (0, String::new()));
        assert_eq!(said("CHECK", r#","good":true"#), (999, "fixed: a is gone; b is gone".to_owned()));
        assert_eq!(said("STATUS", r#","good":true,"there":true"#), (50, "full".to_owned()));
        assert_eq!(said("STATUS", r#","good":true"#), (50, "no disk".to_owned()));
        assert_eq!(said("STATUS", ""), (7, "no good".to_owned()), "a mistake is no obstacle of the host's");
    }
}
