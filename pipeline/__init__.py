"""The reading itself: pure functions over arrays and frozen dataclasses."""

import os

# OpenCV reads these when it loads. Sizes are checked by us first; this is the second line of defence.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 29))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # a broken file is the sender's news, not the log's
