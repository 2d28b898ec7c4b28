// cri does what the kubelet does with one image: pull it, run a pod sandbox on the host's network with one container of it, print what that wrote,
// and remove both. With -users the pod has a user namespace, whose 65536 users and groups are those of the host from there on. With -remove it removes
// the image instead.
//
//	cri -address SOCKET -dir DIRECTORY [-users FIRST] IMAGE COMMAND…
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	address := flag.String("address", "", "containerd's socket")
	dir := flag.String("dir", "", "where logs go")
	remove := flag.Bool("remove", false, "remove the image")
	users := flag.Uint("users", 0, "the host's user that is root in the pod")
	flag.Parse()
	if err := run(*address, *dir, *remove, uint32(*users), flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address, dir string, remove bool, users uint32, image string, command []string) error {
	connection, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	images, runtime := cri.NewImageServiceClient(connection), cri.NewRuntimeServiceClient(connection)
	spec := &cri.ImageSpec{Image: image}
	if remove {
		_, err := images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: spec})
		return err
	}
	namespaces := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}
	if users != 0 {
		ids := []*cri.IDMapping{{HostId: users, Length: 65536}}
		namespaces.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	}
	pod := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: filepath.Base(dir), Uid: filepath.Base(dir), Namespace: "default"},
		LogDirectory: dir,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: namespaces,
		}},
	}
	pulled, err := images.PullImage(ctx, &cri.PullImageRequest{Image: spec, SandboxConfig: pod})
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	if len(command) == 0 {
		return nil
	}
	sandbox, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return fmt.Errorf("run sandbox: %w", err)
	}
	defer func() {
		runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox.PodSandboxId})
		runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox.PodSandboxId})
	}()
	log := filepath.Join(dir, "log")
	if err := os.Remove(log); err != nil && !os.IsNotExist(err) {
		return err
	}
	created, err := runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "once"},
			Image:    &cri.ImageSpec{Image: pulled.ImageRef},
			Command:  command,
			LogPath:  "log",
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces,
			}},
		},
		SandboxConfig: pod,
	})
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	if _, err := runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	for {
		status, err := runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: created.ContainerId})
		if err != nil {
			return fmt.Errorf("container: %w", err)
		}
		if status.Status.State == cri.ContainerState_CONTAINER_EXITED {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return tell(log)
}

// tell prints the lines of a container's log without time, stream and tag.
func tell(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if parts := strings.SplitN(lines.Text(), " ", 4); len(parts) == 4 {
			fmt.Println(parts[3])
		}
	}
	return lines.Err()
}
