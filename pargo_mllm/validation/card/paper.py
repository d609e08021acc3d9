"""Table 1 of the paper: what sets of captions hold, as it says."""

from __future__ import annotations

# (kind, set, captioned by, samples, characters of a caption on average)
TABLE_1 = (
    ("coarse", "COCO-Caption", "human", "118K", 52),
    ("coarse", "BLIP-LCS", "BLIP", "558K", 54),
    ("coarse", "LLaVA-23K", "GPT-4", "23K", 609),
    ("detailed", "ShareGPT4V", "GPT-4V", "0.1M", 942),
    ("detailed", "ShareGPT4V-PT", "Share-Captioner", "1.2M", 826),
    ("detailed", "ParGoCap-1M-PT", "GPT-4V, Gemini", "1M", 921),
)

NOTE = (
    "The other rows are those of the paper's Table 1, as it rounds them; it does not say how it counts. Here a sample is a "
    "record (of a COCO-style folder, a photograph with all its captions), and characters are those of an answer, blanks at its "
    "ends left out."
)
