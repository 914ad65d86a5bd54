package domain

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShmem(t *testing.T) {
	n := mustParse(t, `<devices>
		<shmem name='default'><model type='ivshmem-plain'/></shmem>
		<shmem name='zero'><size>0</size><model type='ivshmem-plain'/></shmem>
		<shmem name='bytes'><model type='ivshmem-plain'/><size>1048576</size></shmem>
		<shmem name='twice'><model type='ivshmem-plain'/><size unit='MiB'>32</size></shmem>
		<shmem name='twice'><model type='ivshmem-plain'/><size unit='M'>64</size></shmem>
		<shmem name='../bell'><model type='ivshmem-doorbell'/><server path='/x'/></shmem>
		<shmem name='old'><model type='ivshmem'/><size unit='M'>1</size></shmem>
		<shmem name='none'/>
	</devices>`+commandLineXML("-object", "memory-backend-file,mem-path=/dev/shm/bytes,size=2M"))
	want := []File{
		{"/dev/shm/default", 4 * mib},
		{"/dev/shm/zero", 4 * mib},
		{"/dev/shm/bytes", 2 * mib},
		{"/dev/shm/twice", 64 * mib},
	}
	if diff := cmp.Diff(want, n.Shm); diff != "" {
		t.Errorf("shm (-want +got):\n%s", diff)
	}
}
