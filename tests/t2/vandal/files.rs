//! Files that plugins and people read, and those that plugins leave.

use super::Object::File;
use super::{Row, healed};

/// subnet.env, the status, and the attachments' records.
pub const FILES: &[Row] = &[
    healed(File, "subnet.env deleted", "rm $ENV"),
    healed(File, "subnet.env edited", "sed -i s/1450/9000/ $ENV"),
    healed(File, "subnet.env written in place", "echo FLANNEL_MTU=1 >> $ENV"),
    healed(File, "subnet.env truncated", ": > $ENV"),
    healed(File, "subnet.env unreadable", "chmod 0 $ENV"),
    healed(File, "subnet.env replaced by a directory", "kill -STOP $PID; rm $ENV; mkdir $ENV; kill -CONT $PID")
        .unready("subnet.env", "rmdir $ENV"),
    healed(
        File,
        "subnet.env replaced by a full directory",
        "kill -STOP $PID; rm $ENV; mkdir $ENV; touch $ENV/file; kill -CONT $PID",
    )
    .unready("subnet.env", "rm -r $ENV"),
    healed(File, "subnet.env replaced by a link", "ln -sf /dev/null $ENV"),
    healed(File, "subnet.env replaced by a FIFO", "kill -STOP $PID; rm $ENV; mkfifo $ENV; kill -CONT $PID"),
    healed(File, "subnet.env has another name, too", "ln $ENV $ENV.copy").harmless("the same file", "rm $ENV.copy"),
    healed(File, "status deleted", "rm $STATUS"),
    healed(File, "status truncated", ": > $STATUS"),
    healed(File, "status edited", "sed -i s/vxlan/none/ $STATUS"),
    healed(File, "status unreadable", "chmod 0 $STATUS"),
    healed(File, "status replaced by a directory", "kill -STOP $PID; rm $STATUS; mkdir $STATUS; kill -CONT $PID")
        .said("", "rmdir $STATUS"),
    healed(File, "status replaced by a link", "ln -sf /dev/null $STATUS"),
];
