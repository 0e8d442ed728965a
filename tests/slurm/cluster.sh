#!/usr/bin/env bash
# A Slurm cluster of one node, this machine, on the loopback interface, for tests. Runs as root.
#
#     apt-get install --no-install-recommends slurm-wlm slurmdbd munge mariadb-server
#     tests/slurm/cluster.sh start FOLDER     all that the cluster writes goes there, and its daemons stay in the background
#     export SLURM_CONF=FOLDER/slurm.conf     then sbatch, squeue, scancel and sacct reach it
#     tests/slurm/cluster.sh stop FOLDER
#
# It keeps accounts (slurmdbd, MariaDB) because submitit asks sacct whether a job still runs.
set -euo pipefail

command=${1:?start or stop}
folder=$(realpath -m "${2:?a folder}")
# A shell as user slurm or munge is not needed: everything runs as root, and the path of a socket must be short.
sockets=${TMPDIR:-/tmp}/slurm-$(printf %s "$folder" | cksum | cut -d' ' -f1)
export SLURM_CONF=$folder/slurm.conf

wait_for() { # what, command…
    local what=$1
    shift
    for _ in $(seq 150); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "$what did not start; its log is in $folder" >&2
    stop
    exit 1
}

start() {
    for program in munged mariadbd slurmdbd slurmctld slurmd; do
        command -v "$program" >/dev/null || { echo "$program is not installed; see the top of $0" >&2; exit 1; }
    done
    mkdir -p "$folder"/{state,spool} "$sockets"
    chmod 755 "$folder" "$sockets"

    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    munged --force --key-file="$folder/munge.key" --socket="$sockets/munge" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"

    mariadb-install-db --user=root --datadir="$folder/database" --auth-root-authentication-method=normal >"$folder/mariadb.log" 2>&1
    mariadbd --no-defaults --user=root --datadir="$folder/database" --socket="$sockets/mariadb" --pid-file="$folder/mariadbd.pid" \
        --bind-address=127.0.0.1 --port=16820 >>"$folder/mariadb.log" 2>&1 </dev/null &
    wait_for MariaDB mariadb --socket="$sockets/mariadb" -e 'select 1'
    mariadb --socket="$sockets/mariadb" -e "create database slurm_acct_db; create user 'slurm'@'127.0.0.1' identified by 'slurm';
        grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1'"

    cat >"$folder/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$sockets/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=16820
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
PidFile=$folder/slurmdbd.pid
LogFile=$folder/slurmdbd.log
END
    chmod 600 "$folder/slurmdbd.conf" # slurmdbd insists
    cat >"$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$sockets/munge
CredType=cred/munge
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass=$sockets/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
KillWait=10
MailProg=/bin/true
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(sed -n 's/MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1100)) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    slurmdbd
    wait_for slurmdbd timeout 5 sacctmgr --immediate show cluster
    sacctmgr --immediate add cluster test >/dev/null
    slurmctld
    slurmd
    wait_for Slurm sh -c 'sinfo --noheader --format=%T | grep -qx idle'
}

stop() {
    for name in slurmd slurmctld slurmdbd mariadbd munged; do
        [ -s "$folder/$name.pid" ] || continue
        pid=$(cat "$folder/$name.pid")
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
    done
    rm -rf "$sockets"
}

case $command in
    start) start ;;
    stop) stop ;;
    *) echo "usage: $0 start|stop FOLDER" >&2 && exit 2 ;;
esac
