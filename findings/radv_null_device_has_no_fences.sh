#!/usr/bin/env bash
# Mesa 22.3.6, RADV without a GPU (RADV_FORCE_FAMILY): device, pipeline layout, buffer and semaphore are made and shaders
# compile, but vkCreateFence gives VK_ERROR_INVALID_EXTERNAL_HANDLE, which is not among the errors that the specification
# lists for it, though nothing external is asked for. So an application that makes its fences when it opens a device
# cannot compile its shaders for a GPU that is not there. Needs Debian 12's apt. Exits with 1 when this is no longer so.
# Source: src/amd/vulkan/winsys/null in Mesa.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download mesa-vulkan-drivers=22.3.6-1+deb12u2 libvulkan1=1.3.239.0-1)
for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
lib=$folder/root/usr/lib/$(uname -m)-linux-gnu
printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.3.0"}}\n' \
  "$lib/libvulkan_radeon.so" >"$folder/icd.json"
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q vulkan==1.3.275.1
RADV_FORCE_FAMILY=navi21 VK_DRIVER_FILES=$folder/icd.json VK_ICD_FILENAMES=$folder/icd.json LD_LIBRARY_PATH=$lib \
  "$folder/venv/bin/python" - <<'PY'
import sys

import vulkan as vk

instance = vk.vkCreateInstance(vk.VkInstanceCreateInfo(pApplicationInfo=vk.VkApplicationInfo(apiVersion=vk.VK_MAKE_VERSION(1, 1, 0))), None)
(physical,) = vk.vkEnumeratePhysicalDevices(instance)
queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
device = vk.vkCreateDevice(physical, vk.VkDeviceCreateInfo(pQueueCreateInfos=[queue]), None)
print("device:", vk.vkGetPhysicalDeviceProperties(physical).deviceName)
tries = {
    "vkCreatePipelineLayout": lambda: vk.vkCreatePipelineLayout(device, vk.VkPipelineLayoutCreateInfo(), None),
    "vkCreateBuffer": lambda: vk.vkCreateBuffer(device, vk.VkBufferCreateInfo(size=64, usage=vk.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT), None),
    "vkCreateSemaphore": lambda: vk.vkCreateSemaphore(device, vk.VkSemaphoreCreateInfo(), None),
    "vkCreateFence": lambda: vk.vkCreateFence(device, vk.VkFenceCreateInfo(), None),
}
NAMES = {-1000072003: "VK_ERROR_INVALID_EXTERNAL_HANDLE"}
found = {}
for name, call in tries.items():
    try:
        call()
        found[name] = "made"
    except Exception as error:  # the binding knows no exception of this number, and looks one up by it
        found[name] = NAMES.get(error.args[0] if error.args else None, repr(error))
    print(f"{name}: {found[name]}")
sys.stdout.flush()
sys.exit(list(found.values()) != ["made", "made", "made", "VK_ERROR_INVALID_EXTERNAL_HANDLE"])
PY
