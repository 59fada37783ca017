#!/bin/bash
# One run on all hosts of a Cloud TPU slice (16 chips of a v5e are 4 hosts), spot, until it has ended:
#
#     export PROJECT=my-project ZONE=us-west4-a FILESTORE=10.0.0.2:/share SOURCE='seqjax[experiments] @ git+https://...'
#     launch/cloud_tpu.sh run|doctor|delete
#
# FILESTORE is an NFS share in the slice's network, which all hosts mount on /shared; SOURCE is what pip installs. JAX finds the hosts by
# itself. When the slice is preempted, it is deleted and asked for again, and the same command resumes from the newest checkpoint; where
# the run has failed and the slice is still there, this ends with status 1.
set -eu

: "${PROJECT:?}" "${ZONE:?}" "${FILESTORE:?}" "${SOURCE:?}"
name=${NAME:-seqjax}
type=${TYPE:-v5litepod-16}
version=${VERSION:-v2-alpha-tpuv5-lite}
where=(--project="$PROJECT" --zone="$ZONE")
train="~/seqjax/bin/python -m seqjax language_model --workdir=/shared/lm --config=char_large \
  --config.data.batch_size=512 --config.data.eval_batch_size=512 --distributed=auto --distributed_timeout=300"

everywhere() {
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

state() { # of the request: WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED, FAILED, nothing, or UNKNOWN where nobody answers
  local said
  if said=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' 2>&1); then
    echo "$said"
  elif [[ $said != *NOT_FOUND* && $said != *"not found"* ]]; then
    echo "$said" >&2
    echo UNKNOWN
  fi
}

delete() {
  gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

prepare() { # a slice that is there, with everything installed; fails where one of the steps does
  while true; do
    case $(state) in
      ACTIVE) break ;;
      "") gcloud compute tpus queued-resources create "$name" "${where[@]}" --node-id="$name" --accelerator-type="$type" \
        --runtime-version="$version" --spot || exit ;;
      SUSPENDED | FAILED)
        delete || exit
        sleep "${PAUSE:-60}"
        ;;
      *) sleep "${PAUSE:-60}" ;;
    esac
  done
  everywhere "set -e
    mountpoint -q /shared || { sudo apt-get install -yq nfs-common && sudo mkdir -p /shared && sudo mount $FILESTORE /shared; }
    [ -x ~/seqjax/bin/python ] || python3 -m venv ~/seqjax
    ~/seqjax/bin/pip install -q 'jax[tpu]' \"$SOURCE\""
}

case ${1:-} in
  run)
    while true; do
      if prepare && everywhere "exec $train"; then exit 0; fi
      sleep "${PAUSE:-60}"
      if [ "$(state)" = ACTIVE ]; then exit 1; fi
    done
    ;;
  doctor)
    prepare
    everywhere "exec $train --doctor"
    ;;
  delete) delete ;;
  *)
    echo "usage: PROJECT=... ZONE=... FILESTORE=HOST:/SHARE $0 run|doctor|delete" >&2
    exit 2
    ;;
esac
