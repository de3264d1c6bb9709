"""Situations of public trouble reports and the tests that play them: ``python -m tests.faults.situations``.

Writes the table of docs/reliability.md anew; refuses a row whose test is not there. ``--run`` plays them
first, one after the other, and says which did not pass (an hour or more on two cores).
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from dataclasses import dataclass

from tests.conftest import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- situations: begin -->", "<!-- situations: end -->"
#: What stands where no other work is touched.
NOTHING = "nothing"


@dataclass(frozen=True)
class Situation:
    """What happens, what is done about it, how long others wait for it, and which test plays it."""

    happens: str
    then: str
    neighbour: str
    test: str


SITUATIONS = (
    Situation(
        "the same `submit` started twice",
        "one batch; the second follows the first",
        NOTHING,
        "tests/web/test_client_commands.py::test_two_runs_of_one_command_give_one_batch",
    ),
    Situation(
        "Submit pressed in the browser while the client sends",
        "the client follows the batch and says what it lacks",
        NOTHING,
        "tests/web/test_client_commands.py::test_somebody_who_acts_on_the_draft_meanwhile_is_followed",
    ),
    Situation(
        "an interrupted client cleans up after somebody submitted",
        "the batch runs on",
        NOTHING,
        "tests/web/test_client_commands.py::test_a_clean_up_leaves_a_submitted_batch_alone",
    ),
    Situation(
        "the watcher's draft is cancelled by somebody",
        "its files are sent in a new batch",
        NOTHING,
        "tests/web/test_watch.py::test_a_draft_that_was_cancelled_is_sent_anew",
    ),
    Situation(
        "somebody submits the watcher's draft too early",
        "what it lacks is sent in another",
        NOTHING,
        "tests/web/test_watch.py::test_what_a_batch_lacks_that_somebody_else_submitted_is_sent_in_another",
    ),
    Situation(
        "an interrupted `submit`, next day other files in the folder",
        "a new batch; what was left is told",
        NOTHING,
        "tests/web/test_client_commands.py::test_other_files_in_the_same_folder_are_a_new_batch",
    ),
    Situation(
        "an interrupted `submit`, started again",
        "goes on with its draft",
        NOTHING,
        "tests/web/test_client_commands.py::test_interrupted_while_sending_the_same_command_goes_on",
    ),
    Situation(
        "a webhook receiver that hangs",
        "it rests, longer each time; others get theirs",
        "nothing: a worker of its own",
        "tests/db/test_notices.py::test_a_resting_target_holds_up_no_other",
    ),
    Situation(
        "a receiver that drips bytes",
        "left at the deadline of the whole exchange",
        "nothing: a worker of its own",
        "tests/db/test_notices.py::test_a_receiver_that_drips_bytes_is_left_in_time",
    ),
    Situation(
        "a mail server that drips bytes",
        "the same",
        "nothing: a worker of its own",
        "tests/db/test_notices.py::test_a_mail_server_that_drips_bytes_is_left_in_time",
    ),
    Situation(
        "a receiver's first address is dead",
        "the next one is tried",
        NOTHING,
        "tests/db/test_notices.py::test_every_address_of_a_name_is_tried",
    ),
    Situation(
        "ten exports of a site, hundreds of notices",
        "they wait for each other",
        "nothing: windows of their own",
        "tests/db/test_work_kinds.py::test_exports_and_notices_take_no_room_from_reading",
    ),
    Situation(
        "files that take as long to decode as any may",
        "the site stands back while others wait",
        "one slice (`FRACTUREAI_DECODE_SLICE_SECONDS`)",
        "tests/worker/test_decoding_share.py::test_an_urgent_image_is_read_while_another_site_sends_costly_files",
    ),
    Situation(
        "all of that at once, with 200 stalled downloads",
        "measured below",
        "see below",
        "tests/faults/test_neighbour.py::test_a_neighbour_waits_for_nobody",
    ),
    Situation(
        "a laptop sleeps in the middle of a download",
        "no route that streams holds a transaction",
        NOTHING,
        "tests/web/test_streams.py::test_no_streaming_route_holds_a_transaction_while_its_reader_stalls",
    ),
    Situation(
        "a migration while tables are being downloaded",
        "the table is altered",
        "one short transaction",
        "tests/web/test_streams.py::test_a_stalled_table_lets_the_tables_be_altered",
    ),
    Situation(
        "rows arrive while a table is read",
        "each row once, in order",
        NOTHING,
        "tests/web/test_streams.py::test_rows_come_once_and_in_order_whatever_arrives_meanwhile",
    ),
    Situation(
        "a thousand slow clients",
        "cut off when they stall",
        "pages are served",
        "tests/faults/test_slow_clients.py::test_a_thousand_slow_clients_of_each_kind",
    ),
    Situation(
        "a name in Chinese, Thai, Arabic or 18 other scripts",
        "printed, in its own direction",
        NOTHING,
        "tests/unit/test_glyphs.py::test_a_name_in_every_script_is_drawn_and_can_be_copied",
    ),
    Situation(
        "an emoji or a letter that no font has",
        "its code is printed",
        NOTHING,
        "tests/unit/test_glyphs.py::test_a_letter_that_no_font_has_is_its_code",
    ),
    Situation(
        "a server in another time zone",
        "every time in UTC",
        NOTHING,
        "tests/db/test_times.py::test_every_session_is_in_utc",
    ),
    Situation(
        "the watcher's share is away, the disk full, the CSV open in Excel",
        "told once, waited for",
        NOTHING,
        "tests/web/test_watch.py::test_whatever_does_not_work_is_told_once_and_waited_for",
    ),
    Situation(
        "the server is away while the watcher runs",
        "it keeps trying; a signal ends it",
        NOTHING,
        "tests/web/test_watch.py::test_while_the_server_is_away_the_watcher_keeps_trying_and_a_signal_ends_it",
    ),
    Situation(
        "the watcher is killed after submitting or filing",
        "nothing is done twice",
        NOTHING,
        "tests/web/test_watch.py::test_killed_after_submitting_or_filing_nothing_is_done_twice",
    ),
    Situation(
        "50,000 files in the watched folder",
        "the kernel tells of changes; shares are polled",
        "0.02% of a core; 0.7% where polled",
        "tests/web/test_watch.py::test_where_the_kernel_tells_of_changes_nothing_is_looked_at_in_vain",
    ),
    Situation(
        "an upload is cut after more than the patience",
        "sent again",
        NOTHING,
        "tests/unit/test_boundary.py::test_an_upload_that_is_cut_after_the_patience_is_sent_again",
    ),
    Situation(
        "a large upload is cut six times",
        "goes on where it was",
        NOTHING,
        "tests/faults/test_cut_lines.py::test_a_large_upload_goes_on_where_it_was_cut",
    ),
    Situation(
        "a prepared file's download is cut five times",
        "goes on by range",
        NOTHING,
        "tests/faults/test_cut_lines.py::test_a_prepared_file_goes_on_where_it_was_cut",
    ),
    Situation(
        "`--out /dev/null`, a link, a FIFO",
        "written through, never replaced, or refused",
        NOTHING,
        "tests/unit/test_boundary.py::test_out_never_writes_through_what_is_no_file",
    ),
    Situation(
        "an error of the system, a library, the configuration",
        "a sentence and an exit code of its own",
        NOTHING,
        "tests/unit/test_boundary.py::test_each_kind_of_error_is_told",
    ),
    Situation(
        "a terminal that is not UTF-8",
        "what it cannot show is escaped",
        NOTHING,
        "tests/unit/test_boundary.py::test_what_a_terminal_of_latin_1_cannot_show_is_escaped",
    ),
    Situation(
        "a certificate of a private authority, or an untrusted one",
        "trusted by setting; named",
        NOTHING,
        "tests/unit/test_boundary.py::test_a_certificate_that_is_not_trusted_is_named_and_an_own_authority_counts",
    ),
    Situation(
        "a proxy made the tag weak",
        "304 all the same",
        NOTHING,
        "tests/web/test_http.py::test_a_tag_that_a_proxy_made_weak_still_answers_304",
    ),
    Situation(
        "JSON nested ten thousand deep",
        "422",
        NOTHING,
        "tests/web/test_http.py::test_json_that_is_none_or_too_deep_is_told",
    ),
    Situation(
        "a proxy that lets only GET and POST through",
        "tus by method override",
        NOTHING,
        "tests/web/test_http.py::test_a_large_file_by_post_alone",
    ),
    Situation(
        "a file sent as a form's field",
        "its reason",
        NOTHING,
        "tests/web/test_http.py::test_a_file_that_is_sent_as_a_field_gets_its_reason",
    ),
    Situation(
        "served below a path",
        "refused on every page, with what to do",
        NOTHING,
        "tests/web/test_http.py::test_a_proxy_below_a_path_is_refused_on_every_page",
    ),
    Situation(
        "an IPv6 address to listen on", "listens", NOTHING, "tests/web/test_http.py::test_it_listens_on_ipv6"
    ),
    Situation(
        "a session runs out while somebody types",
        "shown again after signing in, never sent",
        NOTHING,
        "tests/web/test_kept_forms.py::test_an_answer_comes_back_in_its_form_and_is_not_sent",
    ),
    Situation(
        "PgBouncer in transaction mode",
        "works by setting; refused without",
        NOTHING,
        "tests/faults/test_pooler.py::test_a_batch_is_read_through_it",
    ),
    Situation(
        "two migrations at once",
        "the second waits, however long",
        "until the first has ended",
        "tests/db/test_recovery.py::test_a_migration_waits_for_another_one_for_longer_than_a_lock_timeout",
    ),
    Situation(
        "folders removed under a writer",
        "made again",
        NOTHING,
        "tests/db/test_blobs.py::test_folders_may_vanish_under_a_writer",
    ),
    Situation(
        "a batch is cancelled while a worker decodes",
        "what the stage wrote is deleted",
        NOTHING,
        "tests/worker/test_reading.py::test_what_a_cancelled_stage_wrote_is_deleted",
    ),
    Situation(
        "a stage loses its lease after it wrote",
        "what it wrote is deleted, what another wrote stays",
        NOTHING,
        "tests/worker/test_reading.py::test_what_a_stage_wrote_before_it_lost_its_lease_is_deleted",
    ),
    Situation(
        "an image is urgent while every worker is at something long",
        "one worker takes nothing else",
        NOTHING,
        "tests/faults/test_neighbour.py::test_urgent_work_finds_a_worker_free",
    ),
    Situation(
        "a share is mounted after the watcher began, or goes and comes",
        "what lies on it is sent; meanwhile nothing is forgotten",
        NOTHING,
        "tests/faults/test_watch_hour.py::test_a_share_that_is_mounted_after_the_watcher_began",
    ),
    Situation(
        "the hospital's certificate authority changes while a client runs",
        "the file that names it is read again",
        NOTHING,
        "tests/unit/test_boundary.py::test_an_authority_that_changes_while_a_command_runs_is_learned",
    ),
    Situation(
        "the watcher's share, disk, table, line, server, certificates and process fail at random",
        "every file is filed once",
        NOTHING,
        "tests/faults/test_watch_hour.py::test_whatever_breaks_every_file_is_filed_once",
    ),
    Situation(
        "requests that are nearly HTTP: two lengths, no Host, chunks that are none",
        "400, and what follows is no request",
        NOTHING,
        "tests/web/test_http_wire.py::test_nothing_behind_an_ambiguous_request_is_taken_for_another",
    ),
    Situation(
        "an archive that results go to drips bytes",
        "left at the deadline of the whole exchange",
        "nothing: workers of their own, one free for other archives",
        "tests/interop/test_stalled_archive.py::test_who_drips_bytes_is_left_in_time",
    ),
    Situation(
        "an archive that results go to is away",
        "it rests, longer each time; one object tries it",
        NOTHING,
        "tests/interop/test_delivery.py::test_what_stands_in_the_way_now_and_what_for_good",
    ),
    Situation(
        "strangers hold connections to the DICOM receiver",
        "the oldest gives way",
        NOTHING,
        "tests/interop/test_slow_strangers.py::test_strangers_keep_nobody_out",
    ),
    Situation(
        "a modality stalls in the middle of an object",
        "its association ends",
        "a place, until then",
        "tests/interop/test_slow_strangers.py::test_who_stalls_in_the_middle_of_an_object_loses_its_place",
    ),
)


def missing() -> list[str]:
    """Return the tests that rows name and that are not there."""
    found = set()
    for name in {row.test.split("::")[0] for row in SITUATIONS}:
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        found |= {f"{name}::{node.name}" for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return [row.test for row in SITUATIONS if row.test not in found]


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        f"{len(SITUATIONS)} situations, made anew from public reports of queues, web servers, APIs and",
        "command lines. `python -m tests.faults.situations` writes this table and refuses a row without its",
        "test; `--run` plays them first.",
        "",
        "| # | What happens | Then | What a neighbour waits for | Test |",
        "|---|---|---|---|---|",
    ]
    for number, row in enumerate(SITUATIONS, 1):
        test = row.test.removeprefix("tests/").replace(".py::", "::")
        lines.append(f"| {number} | {row.happens} | {row.then} | {row.neighbour} | `{test}` |")
    return "\n".join(lines)


def written(document: str) -> str:
    """Return the document with the table of today."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def play() -> int:
    """Play each situation; return how many did not pass."""
    failed = 0
    for number, row in enumerate(SITUATIONS, 1):
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "faults or not faults", row.test],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        failed += run.returncode != 0
        said = run.stdout.strip().splitlines()[-1:] or ["no output"]
        ended = "passed" if run.returncode == 0 else "FAILED"
        print(f"{number:2} {ended}  {row.test}  {said[0]}", flush=True)
    return failed


def main() -> int:
    """Write the table; return the number of situations that did not pass, or whose test is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true", help="play each situation first")
    asked = parser.parse_args()
    if absent := missing():
        print("no such test:", *absent, sep="\n  ")
        return len(absent)
    failed = play() if asked.run else 0
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 100))
