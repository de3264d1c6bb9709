"""The body parts: what bundles call them, DICOM's terms and codes for them, and what a header may say.

Codes and terms are those of PS3.16, CID 4031 (Common Anatomic Regions) and annex L; `docs/anatomy.md` is made
from this table. Nothing else in the project names a code of an anatomic region.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BodyPart:
    """One part as a radiographer names it.

    Attributes
    ----------
    name
        What bundles call it.
    family
        The parts that lend each other evidence and that a film often shows together.
    body_part
        Body Part Examined (0018,0015).
    code, meaning
        SNOMED CT (coding scheme ``SCT``).
    srt
        The same in the retired scheme ``SRT``, which older objects carry.
    """

    name: str
    family: str
    body_part: str
    code: str
    meaning: str
    srt: str

    @property
    def word(self) -> str:
        """The name for a person."""
        return part_words(self.name)


PARTS: Mapping[str, BodyPart] = {
    part.name: part
    for part in (
        BodyPart("hand", "arm", "HAND", "85562004", "Hand", "T-D8700"),
        BodyPart("wrist", "arm", "WRIST", "74670003", "Wrist joint", "T-15460"),
        BodyPart("forearm", "arm", "FOREARM", "14975008", "Forearm", "T-D8500"),
        BodyPart("elbow", "arm", "ELBOW", "16953009", "Elbow joint", "T-15430"),
        BodyPart("humerus", "arm", "HUMERUS", "85050009", "Humerus", "T-12410"),
        BodyPart("shoulder", "shoulder", "SHOULDER", "16982005", "Shoulder", "T-D2220"),
        BodyPart("hip", "hip", "HIP", "24136001", "Hip joint", "T-15710"),
        BodyPart("femur", "leg", "FEMUR", "71341001", "Femur", "T-12710"),
        BodyPart("knee", "leg", "KNEE", "72696002", "Knee", "T-D9200"),
        BodyPart("lower_leg", "leg", "LEG", "30021000", "Lower leg", "T-D9400"),
        BodyPart("ankle", "leg", "ANKLE", "70258002", "Ankle joint", "T-15750"),
        BodyPart("foot", "leg", "FOOT", "56459004", "Foot", "T-D9700"),
        # MURA names it beside the hand
        BodyPart("finger", "arm", "FINGER", "7569003", "Finger", "T-D8800"),
        # what FracAtlas calls a leg, knee to foot and more; bundles of format 1 say so too
        BodyPart("leg", "leg", "LOWERLIMB", "61685007", "Lower limb", "T-D9000"),
    )
}


def part_words(region: str) -> str:
    """Return a region's name for a person: ``lower_leg`` is ``lower leg``."""
    return region.replace("_", " ")


def family_of(region: str, families: Mapping[str, str]) -> str:
    """Return the family of a region: what the bundle says, else the table; empty where neither knows it."""
    return families.get(region) or (PARTS[region].family if region in PARTS else "")


def coded_region(region: str) -> dict[str, str] | None:
    """Return the DICOM terms of a region as an exported document holds them; None where there are none."""
    part = PARTS.get(region)
    if part is None:
        return None
    return {
        "body_part_examined": part.body_part,
        "scheme": "SCT",
        "code": part.code,
        "meaning": part.meaning,
    }


# What headers say. A bundle's regions may be parts, or the coarser ones of FracAtlas and MURA.

_HAND = frozenset({"hand", "finger", "wrist"})
_WRIST = frozenset({"hand", "wrist", "forearm"})
_FOREARM = frozenset({"hand", "wrist", "forearm", "elbow"})
_ELBOW = frozenset({"elbow"})
_HUMERUS = frozenset({"humerus", "shoulder", "elbow"})
_ARM = _FOREARM | _HUMERUS | {"finger"}
_SHOULDER = frozenset({"shoulder"})
_HIP = frozenset({"hip"})
_FEMUR = frozenset({"femur", "leg", "hip"})
_KNEE = frozenset({"knee", "leg"})
_LOWER_LEG = frozenset({"lower_leg", "knee", "ankle", "leg"})
_FOOT = frozenset({"foot", "ankle", "leg"})

#: Body Part Examined (PS3.16 annex L, and the longer forms that modalities write) to the regions that such an
#: image may show.
STATED_PARTS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("HAND", "FINGER", "THUMB", "PALM", "METACARPUS"), _HAND),
    **dict.fromkeys(("WRIST", "CARPUS", "WRIST JOINT"), _WRIST),
    **dict.fromkeys(("FOREARM", "RADIUS", "ULNA", "RADIUSULNA", "LOWER ARM"), _FOREARM),
    **dict.fromkeys(("ARM", "UPPER EXTREMITY", "UPPER LIMB"), _ARM),
    **dict.fromkeys(("ELBOW", "ELBOW JOINT"), _ELBOW),
    **dict.fromkeys(("HUMERUS", "UPPER ARM"), _HUMERUS),
    **dict.fromkeys(("SHOULDER", "SHOULDER JOINT", "SCAPULA", "ACJOINT", "AC JOINT"), _SHOULDER),
    **dict.fromkeys(("HIP", "HIP JOINT", "PELVIS", "PELVIS HIP", "ACETABULUM"), _HIP),
    **dict.fromkeys(("FEMUR", "THIGH", "UPPER LEG"), _FEMUR),
    **dict.fromkeys(("LOWER EXTREMITY", "LOWER LIMB"), _FEMUR | _LOWER_LEG | _FOOT),
    **dict.fromkeys(("KNEE", "KNEE JOINT", "PATELLA"), _KNEE),
    **dict.fromkeys(("LEG", "LOWER LEG", "TIBIA", "FIBULA", "TIBIAFIBULA", "CALF"), _LOWER_LEG),
    **dict.fromkeys(("ANKLE", "ANKLE JOINT"), _FOOT | {"lower_leg"}),
    **dict.fromkeys(("FOOT", "TOE", "TARSUS", "METATARSUS", "CALCANEUS", "HEEL"), _FOOT),
    **dict.fromkeys(("HINDFOOT", "FOREFOOT", "MIDFOOT"), _FOOT),
}
#: Says nothing about the region. A whole body is no limb.
VAGUE_PARTS = frozenset({"", "EXTREMITY", "EXTREMITIES", "BONE", "SKELETON", "OTHER", "UNKNOWN"})

#: What modalities of other countries write (capitals, no spaces), as the term of the standard: a limb so
#: named is read, and anything else is named by its term where it is refused.
TRANSLATED: Mapping[str, str] = {
    # German
    **dict.fromkeys(("DAUMEN",), "THUMB"),
    **dict.fromkeys(("HANDGELENK", "HANDWURZEL"), "WRIST"),
    **dict.fromkeys(("MITTELHAND",), "METACARPUS"),
    **dict.fromkeys(("UNTERARM",), "FOREARM"),
    **dict.fromkeys(("ELLBOGEN", "ELLENBOGEN", "ELLENBOGENGELENK"), "ELBOW"),
    **dict.fromkeys(("OBERARM",), "HUMERUS"),
    **dict.fromkeys(("SCHULTER", "SCHULTERGELENK"), "SHOULDER"),
    **dict.fromkeys(("HÜFTE", "HUEFTE", "HÜFTGELENK", "HUEFTGELENK"), "HIP"),
    **dict.fromkeys(("BECKEN",), "PELVIS"),
    **dict.fromkeys(("OBERSCHENKEL",), "FEMUR"),
    **dict.fromkeys(("KNIE", "KNIEGELENK"), "KNEE"),
    **dict.fromkeys(("UNTERSCHENKEL",), "LEG"),
    **dict.fromkeys(("SPRUNGGELENK", "OSG", "KNÖCHEL", "KNOECHEL"), "ANKLE"),
    **dict.fromkeys(("FUSS", "FUß", "VORFUSS", "MITTELFUSS", "RÜCKFUSS", "RUECKFUSS"), "FOOT"),
    **dict.fromkeys(("ZEHE", "ZEHEN", "GROSSZEHE"), "TOE"),
    **dict.fromkeys(("FERSE",), "HEEL"),
    **dict.fromkeys(("BRUSTKORB", "LUNGE", "THORAX"), "CHEST"),
    **dict.fromkeys(("RIPPE", "RIPPEN"), "RIB"),
    **dict.fromkeys(("SCHLÜSSELBEIN", "SCHLUESSELBEIN", "KLAVIKULA"), "CLAVICLE"),
    **dict.fromkeys(("WIRBELSÄULE", "WIRBELSAEULE"), "SPINE"),
    **dict.fromkeys(("HWS", "HALSWIRBELSÄULE", "HALSWIRBELSAEULE"), "CSPINE"),
    **dict.fromkeys(("BWS", "BRUSTWIRBELSÄULE", "BRUSTWIRBELSAEULE"), "TSPINE"),
    **dict.fromkeys(("LWS", "LENDENWIRBELSÄULE", "LENDENWIRBELSAEULE"), "LSPINE"),
    **dict.fromkeys(("SCHÄDEL", "SCHAEDEL"), "SKULL"),
    **dict.fromkeys(("KOPF",), "HEAD"),
    **dict.fromkeys(("BAUCH",), "ABDOMEN"),
    **dict.fromkeys(("MAMMA",), "BREAST"),
    **dict.fromkeys(("KIEFER", "OPG"), "JAW"),
    **dict.fromkeys(("ZAHN", "ZÄHNE", "ZAEHNE"), "TOOTH"),
    **dict.fromkeys(("GANZKÖRPER", "GANZKOERPER"), "WHOLEBODY"),
    # Spanish
    **dict.fromkeys(("MANO", "MANOS"), "HAND"),
    **dict.fromkeys(("DEDO", "DEDOS"), "FINGER"),
    **dict.fromkeys(("PULGAR",), "THUMB"),
    **dict.fromkeys(("MUÑECA", "MUNECA"), "WRIST"),
    **dict.fromkeys(("ANTEBRAZO",), "FOREARM"),
    **dict.fromkeys(("CODO", "CODOS"), "ELBOW"),
    **dict.fromkeys(("HÚMERO", "HUMERO", "BRAZO"), "HUMERUS"),
    **dict.fromkeys(("HOMBRO", "HOMBROS"), "SHOULDER"),
    **dict.fromkeys(("CADERA", "CADERAS"), "HIP"),
    **dict.fromkeys(("PÉLVIS",), "PELVIS"),
    **dict.fromkeys(("FÉMUR", "MUSLO"), "FEMUR"),
    **dict.fromkeys(("RODILLA", "RODILLAS"), "KNEE"),
    **dict.fromkeys(("PIERNA", "PIERNAS"), "LEG"),
    **dict.fromkeys(("TOBILLO", "TOBILLOS"), "ANKLE"),
    **dict.fromkeys(("PIE", "PIES"), "FOOT"),
    **dict.fromkeys(("TALÓN", "TALON"), "HEEL"),
    **dict.fromkeys(("TÓRAX", "TORAX", "PECHO"), "CHEST"),
    **dict.fromkeys(("COSTILLA", "COSTILLAS"), "RIB"),
    **dict.fromkeys(("CLAVÍCULA", "CLAVICULA"), "CLAVICLE"),
    **dict.fromkeys(("COLUMNA", "COLUMNAVERTEBRAL"), "SPINE"),
    **dict.fromkeys(("COLUMNACERVICAL",), "CSPINE"),
    **dict.fromkeys(("COLUMNADORSAL", "COLUMNATORÁCICA", "COLUMNATORACICA"), "TSPINE"),
    **dict.fromkeys(("COLUMNALUMBAR",), "LSPINE"),
    **dict.fromkeys(("CRÁNEO", "CRANEO"), "SKULL"),
    **dict.fromkeys(("CABEZA",), "HEAD"),
    **dict.fromkeys(("MAMA", "MAMAS"), "BREAST"),
    **dict.fromkeys(("DIENTE", "DIENTES"), "TOOTH"),
    # Japanese
    **dict.fromkeys(("手", "手部"), "HAND"),
    **dict.fromkeys(("指", "手指"), "FINGER"),
    **dict.fromkeys(("母指",), "THUMB"),
    **dict.fromkeys(("手関節", "手首"), "WRIST"),
    **dict.fromkeys(("前腕", "前腕部"), "FOREARM"),
    **dict.fromkeys(("肘", "肘関節"), "ELBOW"),
    **dict.fromkeys(("上腕", "上腕骨"), "HUMERUS"),
    **dict.fromkeys(("肩", "肩関節"), "SHOULDER"),
    **dict.fromkeys(("股関節",), "HIP"),
    **dict.fromkeys(("骨盤",), "PELVIS"),
    **dict.fromkeys(("大腿", "大腿骨"), "FEMUR"),
    **dict.fromkeys(("膝", "膝関節"), "KNEE"),
    **dict.fromkeys(("下腿", "下腿骨"), "LEG"),
    **dict.fromkeys(("足関節",), "ANKLE"),
    **dict.fromkeys(("足", "足部"), "FOOT"),
    **dict.fromkeys(("足趾", "趾"), "TOE"),
    **dict.fromkeys(("踵骨",), "CALCANEUS"),
    **dict.fromkeys(("胸部", "胸"), "CHEST"),
    **dict.fromkeys(("肋骨",), "RIB"),
    **dict.fromkeys(("鎖骨",), "CLAVICLE"),
    **dict.fromkeys(("脊椎", "全脊椎"), "SPINE"),
    **dict.fromkeys(("頸椎",), "CSPINE"),
    **dict.fromkeys(("胸椎",), "TSPINE"),
    **dict.fromkeys(("腰椎",), "LSPINE"),
    **dict.fromkeys(("頭蓋", "頭蓋骨"), "SKULL"),
    **dict.fromkeys(("頭部",), "HEAD"),
    **dict.fromkeys(("腹部",), "ABDOMEN"),
    **dict.fromkeys(("乳房",), "BREAST"),
    **dict.fromkeys(("歯", "歯牙"), "TOOTH"),
    **dict.fromkeys(("顎",), "JAW"),
    **dict.fromkeys(("全身",), "WHOLEBODY"),
}

#: Code values of Anatomic Region Sequence (SCT, then SRT and SNM3) to the term of Body Part Examined, of
#: CID 4031: limbs, and what must be refused. A code that is not listed says nothing.
CODED_PARTS: Mapping[str, str] = {
    code: body_part
    for body_part, codes in {
        **{part.body_part: (part.code, part.srt) for part in PARTS.values()},
        "LOWERLIMB": ("61685007", "T-D9000", "72001000", "T-12700"),
        "UPPERLIMB": ("53120007", "T-D8000", "371195002", "T-D0821"),
        "EXTREMITY": ("66019005", "T-D0300"),
        "HIP": ("24136001", "T-15710", "29836001", "T-D2500"),
        "THUMB": ("76505004", "T-D8810"),
        "UPPERARM": ("40983000", "T-D8200"),
        "RADIUS": ("62413002", "T-12420"),
        "ULNA": ("23416004", "T-12430"),
        "SCAPULA": ("79601000", "T-12280"),
        "ACJOINT": ("85856004", "T-15420"),
        "PELVIS": ("816092008", "12921003", "T-D6000"),
        "THIGH": ("68367000", "T-D9100"),
        "PATELLA": ("64234005", "T-12730"),
        "TIBIA": ("12611008", "T-12740"),
        "FIBULA": ("87342007", "T-12750"),
        "TARSUS": ("27949001", "T-15770"),
        "CALCANEUS": ("80144004", "T-12770"),
        "TOE": ("29707007", "T-D9800"),
        # not read here
        "CHEST": ("816094009", "51185008", "T-D3000", "86598002", "T-280A0"),
        "CHESTABDOMEN": ("416550000", "R-FAB55"),
        "CHESTABDPELVIS": ("416775004", "R-FAB56"),
        "NECKCHEST": ("417437006", "R-FAB52"),
        "MEDIASTINUM": ("72410000", "T-D3300"),
        "HEART": ("80891009", "T-32000"),
        "RIB": ("113197003", "T-11300"),
        "STERNUM": ("56873002", "T-11210"),
        "CLAVICLE": ("51299004", "T-12310"),
        "SCJOINT": ("7844006", "T-15610"),
        "SPINE": ("421060004", "T-D04FF", "110517009", "T-11011"),
        "CSPINE": ("122494005", "T-11501", "1217257000"),
        "TSPINE": ("122495006", "T-11502"),
        "TLSPINE": ("1217256009",),
        "LSPINE": ("122496007", "T-11503"),
        "LSSPINE": ("1217253001",),
        "SACRUM": ("54735007", "T-11AD0"),
        "COCCYX": ("64688005", "T-11BF0", "1217254007"),
        "SIJOINT": ("39723000", "T-15680"),
        "SKULL": ("89546000", "T-11100"),
        "HEAD": ("69536005", "T-D1100"),
        "HEADNECK": ("774007", "T-D1000"),
        "NECK": ("45048000", "T-D1600"),
        "FACIALBONES": ("91397008", "T-11196"),
        "NASALBONE": ("74386004", "T-11149"),
        "ORBIT": ("363654007", "T-D14AE"),
        "SINUS": ("2095001", "T-22000"),
        "ZYGOMA": ("13881006", "T-11166"),
        "JAW": ("661005", "T-D1213"),
        "MANDIBLE": ("91609006", "T-11180"),
        "MAXILLA": ("70925003", "T-11170"),
        "TMJ": ("53620006", "T-15290"),
        "TOOTH": ("38199008", "T-54010"),
        "ABDOMEN": ("818981001", "818983003", "113345001", "T-D4000"),
        "ABDOMENPELVIS": ("818982008",),
        "BREAST": ("76752008", "T-04000"),
        "WHOLEBODY": ("38266002", "T-D0010"),
    }.items()
    for code in codes
}

#: Modalities (0008,0060) that may hold the radiograph of a limb; any other that is stated refuses.
RADIOGRAPHIC_MODALITIES = frozenset({"", "CR", "DX", "RG", "RF", "HC", "OT"})
#: View positions (0018,5101) that only other examinations have: mammography, chest and abdomen, the
#: cervicothoracic spine. PA, AP, LL and the obliques say nothing.
FOREIGN_VIEWS = frozenset({"CC", "MLO", "XCCL", "LORDOTIC", "LLD", "RLD", "DECUBITUS", "SWIMMERS"})


def stated_regions(body_part: str, view: str = "", modality: str = "") -> frozenset[str] | None:
    """Return the regions that a header allows: None where it says nothing, empty for nothing that we know.

    Parameters
    ----------
    body_part, view, modality
        Body Part Examined, View Position and Modality, or empty.
    """
    if modality.upper() not in RADIOGRAPHIC_MODALITIES or view.upper() in FOREIGN_VIEWS:
        return frozenset()
    name = " ".join(body_part.upper().replace("_", " ").split())
    if name in VAGUE_PARTS:
        return None
    singular = name[:-1] if name.endswith("S") and name not in _SPELLINGS else name
    return _SPELLINGS.get(singular, frozenset())


#: With and without the spaces.
_SPELLINGS: Mapping[str, frozenset[str]] = {
    spelling: regions for name, regions in STATED_PARTS.items() for spelling in (name, name.replace(" ", ""))
}
