"""From files of rows to lessons: read, measured, judged, recorded, and cut into samples."""
