#!/usr/bin/env bash
# Runs a command of this tree inside Bochs, on an emulated CPU that need not be this machine's: AVX-512 and VNNI where
# the hardware has none, or a CPU without AVX. See README.md.
# usage: tests/emulated_cpu/run.sh MODEL [COMMAND]     e.g. corei7_skylake_x 'python -m pytest tests/unit/kernels'
# PYTHON names the interpreter whose packages are taken along, LINUX a kernel image (vmlinuz) of a distribution, BOCHS
# the emulator, DISPLAY_LIBRARY what it paints on (nogui or term), FEATURES what the model gets beyond what it has
# (Bochs 3: avx512vnni), BOOT an option for Linux: noxsave takes AVX away, clearcpuid=avx512f AVX-512.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=${1:?usage: tests/emulated_cpu/run.sh MODEL [COMMAND]}
command=${2:-sh tests/emulated_cpu/kernels.sh 'c-avx512 c-vnni'}
python=${PYTHON:-python3}
bochs=${BOCHS:-bochs}
linux=${LINUX:-$(ls -v /boot/vmlinuz-* 2>/dev/null | tail -1 || true)}
here=tests/emulated_cpu
job=$PWD/out/emulated-cpu/$model${FEATURES:+-$FEATURES}${BOOT:+-$BOOT}

packages=()
command -v "$bochs" >/dev/null || packages+=("bochs bochs-term (or name a Bochs of your own by BOCHS)")
[ -e /usr/share/bochs/BIOS-bochs-latest ] || packages+=(bochsbios)
[ -e /usr/share/bochs/VGABIOS-lgpl-latest ] || packages+=(vgabios)
command -v genisoimage >/dev/null || packages+=(genisoimage)
command -v cpio >/dev/null || packages+=(cpio)
[ -e /bin/busybox ] || packages+=(busybox-static)
[ -e /usr/lib/ISOLINUX/isolinux.bin ] || packages+=("isolinux syslinux-common")
[ -e "$linux" ] || packages+=("linux-image-amd64 (or name a vmlinuz by LINUX)")
if [ ${#packages[@]} -gt 0 ]; then
  echo "skipped: the emulated CPU needs these Debian packages, see $here/README.md:"
  printf '  %s\n' "${packages[@]}"
  exit 0
fi
version=$("$bochs" --help features 2>&1 | sed -n 's/.*Bochs x86 Emulator \([0-9.]*\).*/\1/p' | head -1 || true)
case $version in
  [12].*) [ -z "${FEATURES:-}" ] || {
    echo "skipped: Bochs $version cannot add $FEATURES to a CPU model, Bochs 3 can: name one by BOCHS, see $here/README.md"
    exit 0
  } ;;
esac
# What Bochs paints is of no use here. A build without plugins holds the displays it can use; Debian's has term.
display=${DISPLAY_LIBRARY:-$(grep -aq bx_nogui_gui "$(command -v "$bochs")" && echo nogui || echo term)}

# --- the root file system: interpreter, its packages, and this tree --------------------------------------------------
root=$job/root
rm -rf "$job"
mkdir -p "$root/bin" "$root/npusim" "$root/site" "$job/iso"
cp /bin/busybox "$root/bin/"
cp "$here/init" "$root/init"
chmod +x "$root/init"
cp -r npusim kernels tests bench "$root/npusim/"
sed 's/, "ignore::pytest_benchmark[^"]*"//' pyproject.toml > "$root/npusim/pyproject.toml" # stays behind
read -r executable prefix library < <("$python" -c 'import sys, sysconfig as s
print(getattr(sys, "_base_executable", sys.executable), sys.base_prefix, s.get_path("stdlib"))')
executable=$(readlink -f "$executable")
tar -C / --exclude=site-packages --exclude=dist-packages --exclude=test --exclude=tests --exclude='*.a' --exclude='*.o' \
  --exclude=idlelib --exclude=tkinter --exclude=lib2to3 --exclude=ensurepip --exclude=turtledemo --exclude='*.opt-?.pyc' \
  -cf - "${library#/}" | tar -C "$root" -xf -
"$python" - "$root/site" <<'COPY'
import importlib.metadata as metadata, pathlib, re, shutil, sys
# What the kernels and their tests import, and what that needs; ml_dtypes and gfloat are second opinions on formats.
wanted, seen = ["numpy", "cffi", "pyyaml", "pytest", "hypothesis", "ml_dtypes", "gfloat"], set()
while wanted:
    name = wanted.pop()
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:  # a requirement of another platform
        continue
    if name in seen:
        continue
    seen.add(name)
    wanted += [re.match(r"[\w.-]+", line)[0] for line in found.requires or () if "extra ==" not in line]
    for file in found.files or ():
        if ".." not in file.parts and not {"tests", "__pycache__"} & set(file.parts) and file.suffix not in (".a", ".pyi"):
            target = pathlib.Path(sys.argv[1], file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file.locate(), target)
COPY
# Compiled here once, not there by every process: that took most of its time.
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" "$root/site" "$root/npusim"
{ echo "$executable"; find "$root" -name '*.so*' -type f; } | xargs -n 1 ldd 2>/dev/null |
  grep -oE '/[^ ]+\.so[^ ]*' | grep -v "^$root" | sort -u | while read -r needed; do
  mkdir -p "$root$(dirname "$needed")"
  cp -L "$needed" "$root$needed"
done
mkdir -p "$root$(dirname "$executable")"
cp "$executable" "$root$executable"
cat > "$root/job" <<JOB
cd /npusim
export PYTHONPATH=/npusim:/npusim/kernels:/npusim/$here:/site PYTHONHOME=$prefix PYTHONDONTWRITEBYTECODE=1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONUNBUFFERED=1
ln -s $executable /bin/python
python -c 'import npukernels as nk; print(*nk.cpu_features()); print({op: nk.variants(op)[-1] for op in nk.ops()})'
$command
JOB
(cd "$root" && find . | cpio --quiet -o -H newc) > "$job/iso/root"

# --- a bootable disc and the machine ------------------------------------------------------------------------------------
cp "$linux" "$job/iso/linux"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$job/iso/"
cat > "$job/iso/isolinux.cfg" <<END
DEFAULT test
PROMPT 0
LABEL test
  KERNEL /linux
  INITRD /root
  APPEND console=ttyS0,115200 quiet nokaslr mitigations=off lsm=capability nosmp lpj=1000000 ${BOOT:-}
END
genisoimage -quiet -R -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table -o "$job/disc.iso" "$job/iso"
rm -rf "$job/iso" "$root"
# Bochs tells its speed from a signal handler, as information: it waits for ever where the signal came while it wrote to
# its log.
cat > "$job/bochsrc" <<MACHINE
config_interface: textconfig
display_library: $display
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=$model, count=1, ips=${IPS:-100000000}, reset_on_triple_fault=0${FEATURES:+, add_features="$FEATURES"}
megs: ${MEGABYTES:-2048}
clock: sync=none
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="$job/disc.iso", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev="$job/serial"
log: $job/bochs.log
error: action=report
panic: action=fatal
info: action=ignore
debug: action=ignore
MACHINE
echo "$model: $command; Bochs ${version:-?}; the machine's console is $job/serial"
debugger=
case $("$bochs" --help 2>&1 || true) in *"-rc filename"*) # built with its debugger, which waits for a command: continue
  echo c > "$job/debugger"
  debugger="-rc $job/debugger" ;;
esac
TERM=linux script -qec "$bochs -q -f $job/bochsrc $debugger" /dev/null </dev/null >"$job/screen" 2>&1 || true
[ -s "$job/serial" ] || { echo "the machine did not start: see $job/screen and $job/bochs.log"; exit 1; }
tr -d '\r' < "$job/serial" | sed -n '/^model name/,$p'
tr -d '\r' < "$job/serial" | grep -q '^job ended: status 0$'
