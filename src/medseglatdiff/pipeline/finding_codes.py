"""What a checkpoint may outline, and how DICOM names it."""

# What a checkpoint's `finding` may be -> SNOMED CT code and meaning (PS3.16, CID 7159 and its like)
FINDINGS = {
    None: ("52988006", "Lesion"),
    "nodule": ("27925004", "Nodule"),
    "polyp": ("41329004", "Polyp"),
    "skin lesion": ("95324001", "Skin lesion"),
}
