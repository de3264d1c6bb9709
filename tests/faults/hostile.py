"""What `hostile_worker` obeys when a file ends in it; the real decoder passes over what follows a picture."""

ABORT, LOOP, STUCK, HUNGRY, SLOW = b"<<abort>>", b"<<loop>>", b"<<stuck>>", b"<<hungry>>", b"<<slow>>"
PAUSE = b"<<pause>>"  # for ten seconds

#: What the worker logs when it begins to wait: a lease alone may mean that it is still loading.
ASLEEP = "asleep"

#: Set in a worker's environment, every fracture scoring lasts for an hour.
SLOW_SCORING = "HOSTILE_SLOW_SCORING"
